"""Each failed run is reported once, whatever fails meanwhile. No automation acts, as if Prefect dropped all of its events.

In the long form alone: ``tests/flows/test_reports.py`` tests the flow, ``tests/e2e/test_crashes.py`` a drain that is killed.
"""

import asyncio
import os
import random
import subprocess
import sys
import time

import pytest
from chaos_facts import Database
from faults import ENDPOINT, long_form_only, machine_of, note_figures
from faults_prefect import own_prefect
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.reports import this_server
from resonant.store.shared.run_watches import RunWatch, add_watch
from support.dispatching import opened
from support.flow_runs import CRASHED, FAILED, TIMED_OUT, new_flow_name, run_with
from support.machine import Machine, finished
from support.prefect import patient_client
from support.waiting import wait_until

pytestmark = [pytest.mark.engine, long_form_only("this starts servers and many processes")]

_RUNS = 20
# As the worker runs the deployment.
_REPORT = """
from resonant.local.project import make_flows_importable
make_flows_importable()
import asyncio
import tasks.reports
from flows.reports import report_failed_runs
tasks.reports._SETTLED_AFTER_SECONDS = {settled_after}
asyncio.run(report_failed_runs())
"""
_PATIENT = '{"patient": {"max_attempts": 1000, "base": 0.5, "cap": 2.0}}'
_DELIVERED = """SELECT e.id, count(*) AS deliveries, sum(d.status = 'delivered') AS delivered
    FROM resonant_events e JOIN resonant_deliveries d ON d.event_key = e.key GROUP BY e.id"""
# Sends in flight when a process is killed.
_WIDTH = 4
# A process imports everything in this time, more or less.
_STARTS_IN_SECONDS = 15.0
_DOWN_SECONDS = 60.0
_CONCLUDES_IN_SECONDS = 300.0


def machine_at(home, sqlite_url, server, receiver) -> Machine:
    machine = machine_of(
        home,
        sqlite_url,
        server.api_url,
        RESONANT_POLICIES=_PATIENT,
        RESONANT_DEFAULT_POLICY="patient",
        RESONANT_LEASE_SECONDS="6",
        RESONANT_ENDPOINT_CONCURRENCY=f"{_WIDTH}",
    )
    machine.save_endpoint(ENDPOINT, receiver.url, timeout=5)
    return machine


@pytest.fixture
def machine(tmp_path, sqlite_url, server, receiver):
    return machine_at(tmp_path, sqlite_url, server, receiver)


async def begin_to_watch(url: str, flow_name: str, *servers: str) -> None:
    async with opened(url) as store:
        for each in servers or ("",):
            await store.write(
                add_watch, RunWatch(ENDPOINT, flow_name, server=each), who="me", now=time.time()
            )


def id_of(server) -> str:
    with temporary_settings({PREFECT_API_URL: server.api_url}):
        return asyncio.run(this_server())


def fail_runs(server, flow_name: str, rng: random.Random) -> set[str]:
    """Let runs fail; return the ids of their events."""
    with patient_client(server.api_url) as api:
        runs = [run_with(api, flow_name, rng.choice([FAILED, CRASHED, TIMED_OUT])) for _ in range(_RUNS)]
    return {f"prefect-flow-run-{run['state']['id']}" for run in runs}


def start_report(machine, *, settled_after: float = 600.0) -> subprocess.Popen[str]:
    """Start the flow in a process, as the schedule does."""
    code = _REPORT.format(settled_after=settled_after)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=machine.home, env=machine.environment, **pipes)


def report(machine, **options) -> None:
    done = finished(start_report(machine, **options), _CONCLUDES_IN_SECONDS)
    assert done.returncode == 0, done.stderr


def kill_at_random(process: subprocess.Popen[str], rng: random.Random) -> None:
    """Kill a process at some moment, also before its work and after it."""
    try:
        process.communicate(timeout=rng.uniform(0.3, 1.0) * _STARTS_IN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def kill_server(server, machine, receiver, rng):
    with server.killed():
        pass


def kill_report(server, machine, receiver, rng):
    kill_at_random(start_report(machine), rng)


def kill_drain(server, machine, receiver, rng):
    report(machine)
    drain = machine.start("emit")
    # While it sends.
    wait_until(lambda: receiver.journal or drain.poll() is not None, _CONCLUDES_IN_SECONDS, every=0.01)
    drain.kill()
    drain.communicate()


def stop_receiver(server, machine, receiver, rng):
    """The endpoint is down for a minute, while drains try to send."""
    machine.save_endpoint(ENDPOINT, "http://127.0.0.1:9/", timeout=5)
    report(machine)
    up_again_at = time.monotonic() + _DOWN_SECONDS
    while time.monotonic() < up_again_at:
        kill_at_random(machine.start("emit"), rng)
    machine.save_endpoint(ENDPOINT, receiver.url, timeout=5)


def start_two(server, machine, receiver, rng):
    for processes in ([start_report(machine) for _ in range(2)], [machine.start("emit") for _ in range(2)]):
        for each in processes:
            assert finished(each, _CONCLUDES_IN_SECONDS).returncode == 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "fault", [kill_server, kill_drain, kill_report, stop_receiver, start_two], ids=lambda each: each.__name__
)
def test_each_failed_run_is_stored_and_delivered_once(fault, server, machine, sqlite_url, receiver):
    flow_name, rng = new_flow_name(), random.Random(os.environ["RESONANT_CHAOS_SEED"])
    asyncio.run(begin_to_watch(sqlite_url, flow_name))
    receiver.mark()
    expected = fail_runs(server, flow_name, rng)

    fault(server, machine, receiver, rng)

    report(machine)
    repeats = send_all(machine, sqlite_url, receiver, expected)
    assert repeats <= (_WIDTH if fault in (kill_drain, stop_receiver) else 0)
    note_figures(f"reports, {fault.__name__}", {"runs": len(expected), "repeats": repeats})


@pytest.mark.timeout(1200)
def test_a_server_that_is_away_while_another_one_reports_loses_no_failed_run(
    server, machine, sqlite_url, receiver, tmp_path
):
    """The runs that failed before a report are settled at once, as after ten minutes."""
    home = tmp_path / "other"
    home.mkdir()
    flow_name, rng = new_flow_name(), random.Random(os.environ["RESONANT_CHAOS_SEED"])
    receiver.mark()
    with own_prefect(tmp_path / "other-prefect") as other_server:
        other_machine = machine_at(home, sqlite_url, other_server, receiver)
        asyncio.run(begin_to_watch(sqlite_url, flow_name, id_of(server), id_of(other_server)))
        expected = fail_runs(other_server, flow_name, rng)
        with other_server.killed():
            expected |= fail_runs(server, flow_name, rng)
            kill_at_random(start_report(machine, settled_after=0.0), rng)
            report(machine, settled_after=0.0)
        with server.killed():
            report(other_machine, settled_after=0.0)

    repeats = send_all(machine, sqlite_url, receiver, expected)
    assert repeats == 0
    note_figures("reports, two servers", {"runs": len(expected), "repeats": repeats})


def send_all(machine, sqlite_url, receiver, expected: set[str]) -> int:
    """Send until each event is delivered once; return how many requests were repeats."""
    rows: dict[str, tuple[int, int]] = {}
    give_up_at = time.monotonic() + _CONCLUDES_IN_SECONDS
    while time.monotonic() < give_up_at and not (rows and all(delivered for _, delivered in rows.values())):
        machine.run("emit", timeout=_CONCLUDES_IN_SECONDS)
        found = Database(sqlite_url).query(_DELIVERED)
        rows = {row["id"]: (row["deliveries"], row["delivered"]) for row in found}
    assert rows == dict.fromkeys(expected, (1, 1))
    received = receiver.received()
    assert received.keys() == expected
    return sum(len(each) - 1 for each in received.values())
