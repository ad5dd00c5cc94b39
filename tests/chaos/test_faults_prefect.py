"""The Prefect server, or the worker, goes away and comes back while events are emitted."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from chaos_facts import Database
from faults import (
    DATABASE,
    ENDPOINT,
    LANES,
    Fault,
    assert_one_line,
    long_form_only,
    machine_of,
    make_events,
    most_begun,
    write_lines,
)
from faults_prefect import own_prefect

from support.machine import finished
from support.postgresql import started_postgresql
from support.prefect import patient_client
from support.receivers import started_receiver
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.machine import Machine

pytestmark = pytest.mark.engine

_AWAY_SECONDS = 30.0
# Six tries of Prefect's client, a minute or so, to say how the run ended; and once more that it failed.
_GIVES_UP_SECONDS = 240.0
# One send at a time, so that a run takes as long as the fault.
_WIDTH = 1
# So many events, sent one by one, take longer than that and the server's start, so the run must report its end to Prefect.
_OUTLASTING = 1500


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with own_prefect(tmp_path_factory.mktemp("prefect")) as started:
        yield started


@pytest.fixture
def machine(tmp_path, sqlite_url, server, receiver):
    made = machine_of(tmp_path, sqlite_url, server.api_url, RESONANT_ENDPOINT_CONCURRENCY=f"{_WIDTH}")
    made.save_endpoint(ENDPOINT, receiver.url)
    return made


@contextlib.contextmanager
def emitting(machine: Machine, fault: Fault, lane: str, count: int):
    """Start to emit so many events; give the process when some were received."""
    events = make_events(count)
    fault.given |= {event.id: event.body for event in events}
    lines = write_lines(machine.home / "events.jsonl", events)
    before = fault.requests
    process = machine.start("emit", str(lines), "--endpoint", ENDPOINT, "--lane", lane)
    try:
        wait_until(lambda: fault.requests - before >= 20 or process.poll() is not None)
        yield process
    finally:
        process.kill()


def outcome(server, name: str) -> list[str]:
    """Return how the flow runs of this name ended, by the server."""
    query = {"flows": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC"}
    with patient_client(server.api_url) as api:
        return [each["state_type"] for each in api.post("/flow_runs/filter", json=query).json()]


@long_form_only("this starts a Prefect server, again and again")
@LANES
@pytest.mark.parametrize("way", ["frozen", "killed"])
def test_a_server_outage_ends_no_run_and_delays_no_event(server, machine, sqlite_url, receiver, way, lane):
    fault = Fault(sqlite_url, receiver, lane)
    with emitting(machine, fault, lane, _OUTLASTING) as process:
        with server.frozen() if way == "frozen" else server.killed():
            before = fault.requests
            time.sleep(_AWAY_SECONDS)
            assert fault.requests > before, "events go out meanwhile"
        done = finished(process)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{_OUTLASTING} delivered, 0 retried, 0 parked, 0 dead-lettered\n"
    assert "Traceback" not in done.stderr
    assert outcome(server, "emit-events")[0] == "COMPLETED"
    fault.account()


@pytest.mark.slow
def test_a_silent_server_at_the_start_is_one_line_and_nothing_is_stored(tmp_path, sqlite_url):
    lines = write_lines(tmp_path / "events.jsonl", make_events(10))
    with started_receiver(tmp_path / "silent", "support.receiver_scripts:silent") as silent:
        machine = machine_of(tmp_path, sqlite_url, f"{silent.url}/api")
        refused = machine.run("emit", str(lines), "--endpoint", ENDPOINT)
    assert_one_line(
        refused, f"no Prefect server answers at {silent.url}/api", "start it, or unset PREFECT_API_URL"
    )
    assert machine.run("status", "--json").stdout.count('"accepted": 0') == 1


@pytest.fixture(scope="module")
def postgresql_server():
    with started_postgresql() as started:
        yield started


@long_form_only("the short form sees this without Prefect")
@pytest.mark.parametrize("lane", ["task", "auto"])
def test_a_long_outage_of_the_store_ends_the_command_with_one_line(
    server, machine, receiver, lane, postgresql_server
):
    url = postgresql_server.empty_database(DATABASE)
    machine.variables |= {"RESONANT_DATABASE_URL": url, "RESONANT_LEASE_SECONDS": "6"}
    machine.save_endpoint(ENDPOINT, receiver.url, timeout=5)
    fault = Fault(url, receiver, lane)
    with emitting(machine, fault, lane, 300) as process, postgresql_server.stopped():
        done = finished(process)
    assert_one_line(done, "postgresql://postgres@/faults: no database server answers at this address")
    again = machine.run("emit")
    assert again.returncode == 0, again.stderr
    fault.account(most_twice=most_begun(lane, _WIDTH))


@long_form_only("Prefect's client waits for two minutes")
def test_a_lost_server_is_one_line_after_all_events_are_sent(server, machine, sqlite_url, receiver):
    fault = Fault(sqlite_url, receiver)
    with emitting(machine, fault, 0, 100) as process:
        server.kill()
        try:
            wait_until(lambda: Database(fault.url).query(_DELIVERED)[0]["number"] == 100)
            done = finished(process, _GIVES_UP_SECONDS)
        finally:
            process.kill()
            server.start()
    fault.account()
    assert_one_line(done, f"the Prefect server at {server.api_url} became unreachable", "`resonant status`")


_DELIVERED = "SELECT count(*) AS number FROM resonant_deliveries WHERE status = 'delivered'"


@long_form_only("this starts `resonant up` twice, and waits for its schedule")
@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_while_it_drains_is_replaced_by_the_next_up(tmp_path, sqlite_url, receiver):
    width = 2
    variables = {"RESONANT_ENDPOINT_CONCURRENCY": f"{width}", "RESONANT_LEASE_SECONDS": "10"}
    machine = machine_of(tmp_path, sqlite_url, **variables)
    fault = Fault(sqlite_url, receiver)
    events = make_events(600)
    fault.given |= {event.id: event.body for event in events}
    lines = write_lines(tmp_path / "events.jsonl", events)
    before = fault.requests
    with machine.up() as first:
        machine.succeed("endpoint", "add", ENDPOINT, receiver.url, "--allow-private", "--timeout", "5")
        assert machine.run("enqueue", str(lines), "--endpoint", ENDPOINT).returncode == 0
        wait_until(lambda: fault.requests - before >= 100)
        worker = next(
            each for each in first.family if each.cmdline()[1:5] == ["-m", "prefect", "worker", "start"]
        )
        for each in [worker, *worker.children(recursive=True)]:
            each.kill()
        done = finished(first.process, 60)
        assert_one_line(done, "the Prefect worker ended (exit code 137): see ")
    with machine.up():
        wait_until(lambda: Database(sqlite_url).query(_DELIVERED)[0]["number"] == 600, 400)
    fault.account(most_twice=most_begun(0, 2 * width))  # of two drains
