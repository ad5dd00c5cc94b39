"""``python -m deployments.bootstrap --remove`` removes what the bootstrap created, and with ``--store`` the store."""

import fcntl
import os
import pty
import shutil
import subprocess
import sys

import pytest

from deployments import bootstrap
from resonant.local.note import lock_of_up
from resonant.local.server_identity import VARIABLE
from resonant.settings import Settings
from support.bootstrapping import run_bootstrap as run
from support.machine import Machine
from support.pages import PROJECT
from support.prefect import forget_server, patient_client, running_server

# These tests delete what others share.
pytestmark = [pytest.mark.engine, pytest.mark.own_server, pytest.mark.slow]

# Prefect's server registers its own at any time.
OWN_KINDS = {kind.get_block_type_name() for kind in bootstrap.block_types()}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """A server of its own, so that nothing else is missing later."""
    with running_server(tmp_path_factory.mktemp("prefect")) as (api_url, _):
        yield api_url
        forget_server(api_url)


@pytest.fixture(scope="module")
def before(api):
    """What is on the server before the first bootstrap. It registers our block types itself if Resonant is installed beside it."""
    return everything(api) | {"block_types": set()}


@pytest.fixture
def machine(api, before, tmp_path):
    """A machine that has bootstrapped the server, with an endpoint, enabled reports, and an event."""
    machine = Machine(tmp_path, api)
    if len(everything(api)["deployments"]) < 10:  # the refused removals remove nothing
        assert run(machine).returncode == 0
    machine.save_endpoint("ops", "http://127.0.0.1:9/")
    machine.do("automation", "enable", "failed-runs", "--endpoint", "ops")
    return machine


def run_process(machine, *options: str, folder=PROJECT, stdin=subprocess.DEVNULL):
    return subprocess.run(
        [sys.executable, "-m", "deployments.bootstrap", *options],
        cwd=folder,
        env=machine.environment,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def everything(api) -> dict[str, set[str]]:
    """The names of everything that a bootstrap may make on a server."""
    with patient_client(api) as client:
        found = {
            kind: client.post(f"/{kind}/filter", json={}).json()
            for kind in (
                "deployments",
                "automations",
                "work_pools",
                "variables",
                "block_types",
                "block_documents",
            )
        }
        found["pages"] = [
            {"name": each["key"]} for each in client.post("/artifacts/latest/filter", json={}).json()
        ]
        found["limits"] = client.post("/v2/concurrency_limits/filter", json={}).json()
    names = {kind: {each["name"] for each in rows} for kind, rows in found.items()}
    return names | {"block_types": names["block_types"] & OWN_KINDS}


def test_it_is_refused_while_a_worker_is_online_since_the_worker_would_create_the_pool_again(machine, api):
    made = everything(api)
    with patient_client(api) as client:
        client.post("/work_pools/resonant/workers/heartbeat", json={"name": "left"})
        done = run(machine, "--remove", "--yes")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "the worker left of the work pool resonant is online, and would create the pool again: stop it, wait until "
            "Prefect has had no heartbeat of it for 90 s, and repeat the removal\n"
        )
        assert everything(api) == made
        client.delete("/work_pools/resonant/workers/left")


def test_without_a_terminal_it_needs_yes_and_lists_the_removals(machine, api):
    made = everything(api)
    done = run(machine, "--remove", "--store")
    assert (done.returncode, done.stdout) == (2, "")
    assert "\n  deployment emit-events/drain\n" in done.stderr
    assert f"\n  store {machine.database}\n" in done.stderr
    assert done.stderr.endswith(f"removing these from {api} needs confirmation: give --yes\n")
    assert everything(api) == made
    assert machine.database.exists()


def test_a_store_in_use_or_on_postgresql_is_refused_before_anything_is_removed(machine, api):
    made = everything(api)
    url = {"RESONANT_DATABASE_URL": "postgresql://resonant@127.0.0.1:9/resonant"}
    done = run(machine, "--remove", "--store", "--yes", **url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("--store removes an SQLite file only, and the store is on PostgreSQL")

    with lock_of_up(Settings(home=machine.home / "resonant")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(machine, "--remove", "--store", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"`resonant up` uses the store {machine.database}: stop it" in done.stderr
    assert everything(api) == made


def test_everything_is_removed_in_a_folder_made_by_init_and_a_repetition_finds_nothing(
    machine, api, before, tmp_path
):
    made = everything(api)
    assert [len(made[kind]) for kind in ("deployments", "automations", "limits", "pages")] == [10, 6, 5, 3]
    project = tmp_path / "our-flows"
    machine.do("init", str(project))

    done = run_process(machine, "--remove", "--blocks", "--yes", folder=project)

    shutil.rmtree(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert everything(api) == before
    lines = done.stdout.splitlines()
    assert "removed: deployment emit-events/drain" in lines
    assert "removed: artifact metrics, which no run has written" in lines
    assert "removed: automation resonant: report failed flow runs at once" in lines
    assert "removed: block type webhook-endpoint with 1 block" in lines
    assert machine.database.exists()

    again = run(machine, "--remove", "--blocks", "--yes")
    assert (again.returncode, again.stdout, again.stderr) == (0, f"nothing to remove at {api}\n", "")


def test_removal_keeps_blocks_the_store_and_everything_of_others(machine, api):
    with patient_client(api) as client:
        flow_id = client.post("/flows/", json={"name": "theirs"}).json()["id"]
        own = client.get("/flows/name/emit-events").json()["id"]
        client.post("/work_pools/", json={"name": "theirs", "type": "process"})
        theirs = [
            client.post("/deployments/", json=new).json()["id"]
            for new in (
                {"name": "drain", "flow_id": flow_id, "work_pool_name": "resonant"},
                {"name": "drain", "flow_id": own, "work_pool_name": "theirs"},
                {"name": "served", "flow_id": own, "entrypoint": "theirs.py:emit_events"},
                {"name": "theirs", "flow_id": own, "work_pool_name": "resonant", "entrypoint": "a.py:b"},
            )
        ]
        automation = {
            "name": "resonant: of theirs",
            "trigger": {"type": "event", "posture": "Reactive", "expect": ["x"], "threshold": 1, "within": 0},
            "actions": [{"type": "do-nothing"}],
        }
        own_automation = client.post("/automations/", json=automation).json()["id"]

        done = run(machine, "--remove", "--yes")
        left = everything(api)
        for each in theirs:
            client.delete(f"/deployments/{each}")
        client.delete(f"/automations/{own_automation}")
        client.delete("/work_pools/theirs")

    assert done.returncode == 0
    assert sorted(done.stderr.splitlines()) == [
        "kept: block type webhook-endpoint with 1 block, which may hold secrets: --blocks removes them",
        "kept: work pool resonant, which has other deployments: emit-events/theirs, theirs/drain",
    ]
    assert left["deployments"] == {"drain", "served", "theirs"}
    assert left["automations"] == {"resonant: of theirs"}
    assert left["work_pools"] >= {"resonant", "theirs"}
    assert (left["block_documents"], left["block_types"]) == ({"ops"}, {"Webhook Endpoint"})
    assert left["pages"] == set()
    assert machine.database.exists()


def test_on_a_terminal_it_asks(api, tmp_path, monkeypatch):
    machine = Machine(tmp_path, api)
    machine.do("token", "create", "shop")
    with patient_client(api) as client:
        client.post("/variables/", json={"name": VARIABLE, "value": "ours"})
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "can_ask", lambda: True)
        done = run(machine, "--remove", "--store", typed="n\n")
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert VARIABLE in everything(api)["variables"]
    assert machine.database.exists()

    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")
    done = run_process(machine, "--remove", "--store", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "Remove?" in done.stderr
    assert VARIABLE not in everything(api)["variables"]
    assert not machine.database.exists()


def test_its_options_need_remove(tmp_path):
    done = run(Machine(tmp_path), "--store")
    assert (done.returncode, done.stderr) == (2, "--blocks, --store and --yes need --remove\n")
