"""``resonant automation`` starts and stops the reports of failed runs on a real server."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import reports
from deployments.reports import AUTOMATION, REPORTS
from resonant.store import WorkerStore
from resonant.store.shared.run_watches import RunWatch, add_watch
from support.flow_runs import CRASHED, FAILED, new_flow_name, run_with
from support.machine import Machine
from support.waiting import wait_until

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def machine(ready_api, tmp_path_factory):
    """A machine with an endpoint."""
    machine = Machine(tmp_path_factory.mktemp("machine"), ready_api)
    machine.save_endpoint("ops", "http://127.0.0.1:9/")
    return machine


@pytest.fixture
def enabled(machine, server):
    """Reports are enabled for a flow; return its name."""
    flow_name = new_flow_name()
    machine.do("automation", "enable", "failed-runs", "--endpoint", "ops", "--flow", f"{flow_name}*")
    yield flow_name
    if of(machine, flow_name):
        machine.do("automation", "disable", "failed-runs", "--endpoint", "ops", "--flow", f"{flow_name}*")


def of(machine, flow_name: str) -> list[dict]:
    return [each for each in machine.read("automation", "list") if each["flow"] == f"{flow_name}*"]


def deployment(server) -> dict:
    return server.get(f"/deployments/name/{REPORTS}").json()


def automations(server) -> list[dict]:
    return [each for each in server.post("/automations/filter", json={}).json() if each["name"] == AUTOMATION]


def started(server) -> set[str]:
    """The runs of the flow that the automation has started."""
    query = {"deployments": {"id": {"any_": [deployment(server)["id"]]}}}
    found = server.post("/flow_runs/filter", json=query).json()
    return {each["id"] for each in found if not each["auto_scheduled"]}


def test_enabling_starts_the_schedule_and_an_automation_and_disabling_the_last_stops_both(
    machine, server, enabled
):
    assert not deployment(server)["paused"]
    [found] = automations(server)
    assert found["enabled"]
    assert [each["deployment_id"] for each in found["actions"]] == [deployment(server)["id"]]

    done = machine.do("automation", "enable", "failed-runs", "--endpoint", "ops", "--flow", f"{enabled}*")
    assert done.stdout.startswith("enabled before: ops gets failed, crashed and late runs of")
    assert len(of(machine, enabled)) == len(automations(server)) == 1

    done = machine.do("automation", "disable", "failed-runs", "--endpoint", "ops", "--flow", f"{enabled}*")
    assert done.stdout.startswith("disabled: ops no longer gets")
    assert deployment(server)["paused"]
    assert automations(server) == machine.read("automation", "list") == []


def test_a_server_that_lost_the_automation_gets_it_again_and_a_disabled_one_stays_disabled(
    machine, server, ready_api, enabled
):
    def restore(*watches: RunWatch) -> bool:
        with temporary_settings({PREFECT_API_URL: ready_api}):
            return asyncio.run(reports.restore(watches))

    [listed] = of(machine, enabled)
    found = RunWatch("ops", f"{enabled}*", server=listed["server"])
    server.delete(f"/automations/{automations(server)[0]['id']}")
    server.post(f"/deployments/{deployment(server)['id']}/pause_deployment")
    assert not restore()
    assert not restore(replace(found, server="another"))
    assert restore(replace(found, server="")), "this server may claim it"
    assert deployment(server)["paused"], "without a watch of this server"

    assert restore(found)
    assert not deployment(server)["paused"]
    [automation] = automations(server)

    server.patch(f"/automations/{automation['id']}", json={"enabled": False})
    server.post(f"/deployments/{deployment(server)['id']}/pause_deployment")
    restore(found)
    assert deployment(server)["paused"]
    assert not automations(server)[0]["enabled"]


def test_a_failed_run_of_a_watched_flow_starts_the_report_and_other_runs_do_not(machine, server, enabled):
    before = started(server)
    run_with(server, new_flow_name(), FAILED)
    for own in ("report-failed-runs", "emit-events"):
        run_with(server, own, FAILED)

    # Sent again, since the triggers may not know the automation yet. They handle events in order.
    def starts() -> set[str]:
        run_with(server, enabled, CRASHED)
        return started(server) - before

    found = wait_until(starts, every=1.0)
    assert len(found) == 1, "at most one run in 15 s"
    run = server.get(f"/flow_runs/{found.pop()}").json()
    assert run["created_by"]["type"] == "AUTOMATION"


def test_each_watch_is_listed_and_the_automation_starts_for_all_of_them(machine, server, enabled):
    machine.do("automation", "enable", "failed-runs", "--endpoint", "ops", "--tag", "prod")
    flows = [each["flow"] for each in machine.read("automation", "list")]
    text = machine.do("automation", "list").stdout.splitlines()
    related = json.dumps(automations(server)[0]["trigger"]["match_related"])
    machine.do("automation", "disable", "failed-runs", "--endpoint", "ops", "--tag", "prod")

    assert flows == [None, f"{enabled}*"]
    assert [line.split()[:4] for line in text[1:]] == [
        ["failed-runs", "ops", "*", "prod"],
        ["failed-runs", "ops", f"{enabled}*", "-"],
    ]
    assert enabled not in related
    assert "prod" not in related
    assert not deployment(server)["paused"], "one is left"


def test_an_automation_begins_at_the_servers_time_on_a_machine_whose_clock_is_ahead(
    machine, server, enabled, monkeypatch
):
    watched = ("failed-runs", "--endpoint", "ops", "--flow", f"{enabled}*")
    machine.do("automation", "disable", *watched)
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 86_400.0)
        done = machine.do("automation", "enable", *watched)

    assert done.stdout.partition(":")[0] == "enabled"
    assert "the clock of this machine is 24 h ahead of the Prefect server's" in done.stderr
    [found] = of(machine, enabled)
    assert datetime.fromisoformat(found["enabled_at"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("enable", "failed-runs", "--endpoint", "opps"), "no endpoint is named 'opps': did you mean ops?"),
        (("enable", "failed-run", "--endpoint", "ops"), "'failed-run' is not one of"),
        (("enable", "failed-runs"), "Missing option '--endpoint'"),
        (("enable", "failed-runs", "--endpoint", "ops", "--tag", " x"), "--tag ' x' is not a name"),
        (
            ("disable", "failed-runs", "--endpoint", "ops", "--flow", "improt-*"),
            "not enabled: ops does not get failed, crashed and late runs of improt-*",
        ),
    ],
    ids=["endpoint", "name", "no endpoint", "spaces", "not enabled"],
)
def test_a_typo_is_an_error_that_changes_nothing(machine, server, arguments, message):
    done = machine.do("automation", *arguments, code=2)
    assert message in " ".join(done.stderr.split())
    assert machine.read("automation", "list") == []


def test_a_glob_that_matches_no_flow_yet_is_mentioned(machine, server):
    run_with(server, "improve-orders", FAILED)
    glob = ("--endpoint", "ops", "--flow", "improve-ordrs")
    done = machine.do("automation", "enable", "failed-runs", *glob)
    machine.do("automation", "disable", "failed-runs", *glob)
    assert "no flow is named 'improve-ordrs' yet: did you mean improve-orders?" in done.stderr


def test_a_removed_endpoint_is_no_longer_watched_for(machine, server):
    name = f"ops-{uuid4().hex[:8]}"
    machine.save_endpoint(name, "http://127.0.0.1:9/")
    machine.do("automation", "enable", "failed-runs", "--endpoint", name)
    machine.do("endpoint", "remove", name, "--yes")
    assert machine.read("automation", "list") == automations(server) == []


def test_the_watches_of_another_server_are_mentioned_and_can_be_listed_and_removed(machine, server, enabled):
    watch = RunWatch("ops", tag="theirs", server="another")
    asyncio.run(store_watch(f"sqlite:///{machine.database}", watch))

    done = machine.do("automation", "list")
    assert "theirs" not in done.stdout
    assert "1 automation of other Prefect servers: `resonant automation list --all-servers`" in done.stderr
    listed = machine.read("automation", "list", "--all-servers")
    assert [(each["tag"], each["server"] == "another") for each in listed] == [
        ("theirs", True),
        (None, False),
    ]
    assert "another" in machine.do("automation", "list", "--all-servers").stdout

    theirs = ("disable", "failed-runs", "--endpoint", "ops", "--tag", "theirs")
    assert "see `resonant automation list`" in machine.do("automation", *theirs, code=2).stderr
    wrong = machine.do("automation", *theirs, "--server", "anothr", code=2)
    assert "see `resonant automation list --all-servers`" in wrong.stderr
    machine.do("automation", *theirs, "--server", "another")
    assert "other Prefect servers" not in machine.do("automation", "list").stderr
    assert not deployment(server)["paused"], "this server's own watch is left"


async def store_watch(url: str, watch: RunWatch) -> None:
    store = await WorkerStore.open(url)
    await store.write(add_watch, watch, who="me", now=1.0)
    await store.close()
