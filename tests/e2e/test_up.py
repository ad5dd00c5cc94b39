"""``resonant up`` starts, works beside other commands, and ends completely.

The tests share one with other files, see ``up``; those at the end kill and stop it.
"""

import contextlib
import json
import re
import signal
import sqlite3
import sys
from dataclasses import replace

import httpx
import pytest

from flows.metrics import export_metrics
from support import patient
from support.machine import STOP_SECONDS, WORKER
from support.ports import free_port
from support.processes import alive, look_at
from support.receivers import started_receiver
from support.store_rows import DELIVERIES
from support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.shared_up]

COUNT = 60
# Few, since the automation sends only one a second at first; and enough delivered ones for an error rate below half of its limit.
FAILED, DELIVERED = 5, 40
_IDLE_PERCENT = 10.0
REPLAY = "resonant: replay transient dead letters when an endpoint has recovered"


def events(kind: str, *, rejected: int = 0, count: int = COUNT) -> list[dict]:
    return [
        {
            "id": f"{kind}-{n}",
            "type": "order.rejected" if n < rejected else "order.paid",
            "source": "/s",
            "data": n,
        }
        for n in range(count)
    ]


def enqueue(machine, kind: str, endpoint: str, *, count: int = 1) -> None:
    stored = events(kind, count=count)
    machine.do("enqueue", machine.write_events(f"{kind}.jsonl", stored), "--endpoint", endpoint)


def answers(url: str) -> bool:
    try:
        return patient.get(url).is_success
    except httpx.TransportError:
        return False


def number(machine, status: str, kind: str) -> int:
    """Return how many deliveries of events of this kind have this status."""
    query = f"SELECT count(*) FROM {DELIVERIES} WHERE status = '{status}' AND event_id LIKE '{kind}-%'"
    return machine.query(query)[0][0]


@pytest.fixture
def draining(up):
    """The worker emits due events: its first drain runs."""
    query = {
        "flows": {"name": {"any_": ["emit-events"]}},
        "work_pools": {"name": {"any_": ["resonant"]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
    }
    wait_until(lambda: up.api.post("/flow_runs/count", json=query).json())


def query_prefect(machine, query: str) -> list[tuple]:
    """Query the database of the server, which may have ended."""
    with contextlib.closing(sqlite3.connect(machine.home / "prefect" / "prefect.db")) as database:
        return database.execute(query).fetchall()


def unfinished_runs(machine) -> list[tuple]:
    """Return the worker's unfinished runs. A command interrupted while it creates its own run leaves that one pending."""
    return query_prefect(
        machine,
        "SELECT flow_run.name, flow.name, state_type, state_timestamp, work_queue_name, parameters"
        " FROM flow_run JOIN flow ON flow.id = flow_id"
        " WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING') AND deployment_id IS NOT NULL",
    )


def runs_of_lost_workers(machine) -> int:
    [(count,)] = query_prefect(
        machine,
        "SELECT count(*) FROM flow_run_state WHERE type = 'CRASHED' AND message = 'its worker was lost'",
    )
    return count


class Producer:
    """Sends an event over HTTP, again and again, and keeps the answers."""

    def __init__(self, user, up, endpoint: str) -> None:
        token = re.search(r"rsn_\S+", user.do("token", "create", endpoint).stdout)[0]
        self._url = re.search(r"^events +(\S+),", up.said, re.MULTILINE)[1]
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/cloudevents+json",
        }
        self._endpoint = endpoint
        self._client = patient.Client(headers=headers, params={"endpoint": endpoint})
        self.answers: list[int | str] = []

    def send(self) -> int | str:
        event = {
            "specversion": "1.0",
            "id": f"{self._endpoint}-{len(self.answers)}",
            "type": "t",
            "source": "/s",
        }
        try:
            self.answers.append(self._client.post(self._url, json=event).status_code)
        except httpx.HTTPError as error:
            self.answers.append(repr(error))
        return self.answers[-1]

    def send_until(self, condition) -> None:
        def is_done() -> bool:
            self.send()
            return condition()

        wait_until(is_done, 180, every=0.1)


def test_up_prints_its_parts_and_addresses_and_the_ui_talks_to_its_server(up, up_machine):
    assert re.search(rf"^UI +http://127\.0\.0\.1:{up.port}$", up.said, re.MULTILINE)
    assert "emit-events/drain" in up.said
    logs = re.search(r"^logs +(.*)$", up.said, re.MULTILINE)[1].split(", ")
    assert len(logs) == 4
    [console] = re.findall(r"^console +(http://127\.0\.0\.1:\d+)$", up.said, re.MULTILINE)
    wait_until(lambda: answers(console))
    assert all((up_machine.home / log).is_file() for log in logs)
    settings = up.api.get(f"{up.url}/ui-settings").json()
    assert settings["api_url"] == f"{up.url}/api"
    assert "<title>" in up.api.get(f"{up.url}/", follow_redirects=True).text


def test_the_worker_sends_events_stored_by_a_command_and_over_http_within_seconds(
    up, user, draining, start_receiver
):
    receiver = start_receiver("resonant.testing:always_ok")
    user.save_endpoint("drained", receiver.url)

    enqueue(user, "stored", "drained")
    assert Producer(user, up, "drained").send() == 202

    for kind in ("stored", "drained"):
        wait_until(lambda kind=kind: number(user, "delivered", kind) == 1)
    assert len(receiver.journal) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads the libraries of processes")
def test_no_drain_and_no_http_server_loads_pandas_or_matplotlib(up, draining):
    query = {
        "flows": {"name": {"any_": ["emit-events"]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
    }
    drains = [up.process_of(run["id"]) for run in up.api.post("/flow_runs/filter", json=query).json()]
    commands = look_at(up.family, lambda each: (each, {*each.cmdline()}))
    servers = [each for each, words in commands if {"serve", "console"} & words]
    assert drains
    assert len(servers) > 1
    maps = look_at(drains + servers, lambda each: each.memory_maps())
    loaded = {library.path for each in maps for library in each}
    assert any("/httptools/" in path for path in loaded), "libraries are found"
    assert not [path for path in loaded if "/pandas/" in path or "/matplotlib/" in path]


def test_a_second_up_is_refused(up, up_machine):
    second = up_machine.do("up", "--port", str(free_port()), code=1)
    assert (
        second.stderr == f"resonant: `resonant up` is already running: {up.url}, process {up.process.pid}\n"
    )


@pytest.fixture(scope="module")
def hooks(up_machine, ensure_up, tmp_path_factory):
    """An endpoint that answers after a short delay, and refuses events marked as rejected."""
    user = replace(up_machine, prefect_api=f"{ensure_up().url}/api")
    folder = tmp_path_factory.mktemp("hooks")
    with started_receiver(folder, "support.receiver_scripts:steady_or_rejected") as receiver:
        user.save_endpoint("hooks", receiver.url)
        yield


def test_emit_counts_its_own_events_beside_a_running_drain(up, up_machine, user, draining, hooks):
    # Check that the drain runs: it sends a stored event.
    enqueue(user, "first", "hooks")
    wait_until(lambda: number(up_machine, "delivered", "first") == 1)

    emitted = user.do("emit", user.write_events("good.jsonl", events("good")), "--endpoint", "hooks")

    assert emitted.stdout == f"{COUNT} delivered, 0 retried, 0 parked, 0 dead-lettered\n"
    assert emitted.stderr == f"stored {COUNT} events for hooks\n"


def test_a_new_dead_letter_is_exit_code_1_and_the_command_that_lists_it_is_shown(user, hooks):
    path = user.write_events("bad.jsonl", events("bad", rejected=2))

    emitted = user.do("emit", path, "--endpoint", "hooks", "--json", code=1)

    said = json.loads(emitted.stdout)
    assert (said["stored"], said["delivered"], said["dead_letter"]) == (COUNT, COUNT - 2, 2)
    assert said["by_reason"] == {"permanent": 2}
    pointer = emitted.stderr.splitlines()[-1]
    assert pointer.startswith("resonant: 2 dead letters: `resonant dlq --endpoint hooks --since ")
    listed = user.read(*pointer.split("`")[1].split()[1:])
    assert {each["event_id"] for each in listed} == {"bad-0", "bad-1"}

    again = user.do("emit", path, "--endpoint", "hooks", code=1)
    counts = f"0 delivered, 0 retried, 0 parked, 2 dead-lettered (2 permanent), {COUNT - 2} delivered before"
    assert again.stdout == f"{counts}\n"

    retried = user.do("retry", "bad-0", "--yes", "--json", code=1)
    said = json.loads(retried.stdout)
    assert (said["replayed"], said["delivered"], said["dead_letter"]) == (1, 0, 1)
    assert "resonant: 1 dead letter: `resonant dlq --since " in retried.stderr


@pytest.fixture
def silent(user, start_receiver):
    """An endpoint that answers only the first twenty requests."""
    user.save_endpoint("silent", start_receiver("support.receiver_scripts:silent_after_twenty").url)
    yield
    user.do("cancel", "--endpoint", "silent")


def test_ctrl_c_is_one_line_with_the_remaining_work(up_machine, silent, user):
    count = 600
    path = up_machine.write_events("many.jsonl", events("many", count=count))
    emitting = up_machine.start("emit", path, "--endpoint", "silent")

    wait_until(lambda: number(up_machine, "delivered", "many") == 20)
    emitting.send_signal(signal.SIGINT)
    out, err = emitting.communicate(timeout=120)

    assert (emitting.returncode, out) == (130, "")
    assert "Crash" not in err
    stored, last = err.splitlines()
    assert stored == "stored 600 events for silent"
    assert last.startswith("resonant: interrupted: ")
    assert last.endswith(" wait: a running drain or the next `resonant emit --endpoint silent` sends them")
    balance = user.read("status")
    assert (balance["balanced"], balance["accepted"] >= count) == (True, True)


def test_a_run_of_the_deployment_sends_its_events_and_ends_by_itself_once_it_is_cancelled(up, user, hooks):
    """Otherwise, the worker kills it after a while, and only the engine's line in its log is missing."""
    given = events("deployed", rejected=1, count=20)
    run = up.start_run("emit-events/emit", events=given, endpoint="hooks", run_for=120)
    wait_until(lambda: number(user, "delivered", "deployed") == len(given) - 1)
    drain = up.process_of(run)
    assert sys.platform != "linux" or any("uvloop" in each.path for each in drain.memory_maps())
    wait_until(lambda: drain.cpu_percent(0.5) < _IDLE_PERCENT)

    up.api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}})

    assert up.final_state(run)["type"] == "CANCELLED"
    logs = {"logs": {"flow_run_id": {"any_": [run]}}}
    wait_until(lambda: "Flow run was cancelled." in up.api.post("/logs/filter", json=logs).text)


@pytest.fixture
def replay_enabled(up):
    """The automation that replays the dead letters of an outage is enabled."""
    [automation] = [
        each for each in up.api.post("/automations/filter", json={}).json() if each["name"] == REPLAY
    ]
    up.api.patch(f"/automations/{automation['id']}", json={"enabled": True})
    yield
    up.api.patch(f"/automations/{automation['id']}", json={"enabled": False})


@pytest.mark.slow
def test_when_an_endpoint_has_recovered_its_transient_dead_letters_are_sent_again(
    up, up_machine, user, draining, start_receiver, tmp_path, replay_enabled
):
    repaired = tmp_path / "repaired"
    receiver = start_receiver("support.receiver_scripts:broken_until_repaired", REPAIRED=str(repaired))
    user.save_endpoint("recovering", receiver.url, policy="once")

    enqueue(user, "lost", "recovering", count=FAILED)
    wait_until(lambda: number(up_machine, "dead_letter", "lost") == FAILED)
    user.run_flow(export_metrics)
    raised = up_machine.query(
        "SELECT raised_at FROM resonant_alerts WHERE condition = 'error_rate' AND endpoint = 'recovering'"
    )
    assert [row[0] is None for row in raised] == [False]

    repaired.touch()
    enqueue(user, "arrived", "recovering", count=DELIVERED)
    wait_until(lambda: number(up_machine, "delivered", "arrived") == DELIVERED)
    user.run_flow(export_metrics)

    wait_until(lambda: number(up_machine, "delivered", "lost") == FAILED, 180)
    assert user.read("status")["balanced"]
    replayed = [
        entry
        for entry in user.read("audit", "--limit", "0")
        if entry["action"] == "replay" and entry["selection"].get("endpoint") == "recovering"
    ]
    assert sum(entry["count"] for entry in replayed) == FAILED


@pytest.mark.slow
def test_parts_that_were_killed_start_again_while_the_intake_answers(up, user, draining, start_receiver):
    receiver = start_receiver("resonant.testing:always_ok")
    user.do("endpoint", "add", "outliving", receiver.url, "--allow-private")
    producer = Producer(user, up, "outliving")
    note = user.home / "resonant" / "up.json"
    producer.send_until(lambda: number(user, "delivered", "outliving"))

    killed = up.find("deployments.server")
    killed.kill()
    producer.send_until(lambda: not note.exists())
    delivered = number(user, "delivered", "outliving")
    producer.send_until(lambda: number(user, "delivered", "outliving") > delivered)
    assert not note.exists(), "deliveries go on while the server starts"
    producer.send_until(note.exists)
    assert up.find("deployments.server") != killed
    assert up.api.get("/health").json() is True

    worker = up.find(*WORKER)
    worker.kill()
    wait_until(lambda: up.find(*WORKER) != worker)
    sent = len(producer.answers)
    producer.send_until(lambda: number(user, "delivered", "outliving") > sent)
    assert set(producer.answers) == {202}
    up.find("resonant", "serve", "--port", re.search(r":(\d+)/events", up.said)[1]).kill()
    producer.send_until(lambda: producer.answers[-1] != 202)
    producer.send_until(lambda: producer.answers[-1] == 202)
    console = up.find(
        "resonant", "console", "--port", re.search(r"console .*:(\d+)$", up.said, re.MULTILINE)[1]
    )
    console.kill()
    accepted = producer.answers.count(202)
    wait_until(lambda: number(user, "delivered", "outliving") >= accepted)

    said = up.noted_until("the HTTP intake runs again")
    said = up.noted_until("the console runs again")
    for part in ("Prefect server", "Prefect worker", "HTTP intake", "console"):
        assert any(line.startswith(f"the {part} ended (exit code 137): see ") for line in said)
    assert {"the Prefect server runs again", "the Prefect worker runs again"} <= set(said)
    assert user.read("status")["balanced"]


@pytest.mark.slow
def test_a_killed_up_leaves_no_process_and_the_next_one_closes_its_runs(up, up_machine, draining, ensure_up):
    family = up.family
    up.process.kill()
    wait_until(lambda: not alive(family))
    assert unfinished_runs(up_machine)
    [left_behind] = (up_machine.home / "resonant" / "tmp").iterdir()
    before = runs_of_lost_workers(up_machine)

    ensure_up()

    assert not left_behind.exists()
    assert runs_of_lost_workers(up_machine) > before


def test_sigterm_stops_everything_and_releases_deliveries(up, up_machine, draining):
    log, family = up_machine.home / "resonant" / "prefect-worker.log", up.family
    before = log.stat().st_size
    up.process.terminate()

    assert up.process.wait(STOP_SECONDS) == 0
    assert not alive(family)
    assert "Traceback" not in log.read_bytes()[before:].decode()
    assert not (up_machine.home / "resonant" / "up.json").exists()
    assert list((up_machine.home / "resonant" / "tmp").iterdir()) == []
    said = up.noted_until()
    assert sum("`resonant up --auth` requires a password" in line for line in said) == 1
    assert [line.split(",")[0] for line in said if line.startswith("stopping")] == [
        "stopping: the runs",
        "stopping: the console",
        "stopping: the Prefect worker",
        "stopping: the Prefect server",
        "stopping: the HTTP intake",
    ]
    assert unfinished_runs(up_machine) == []
