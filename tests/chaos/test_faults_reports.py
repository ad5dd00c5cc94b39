"""Each failed run is reported once, whatever fails meanwhile. No automation acts, as if Prefect dropped all of its events.

The long form has 100 failed runs, 20 for each fault.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time

import pytest
from chaos_facts import Database
from faults import ENDPOINT, IS_LONG, long_form_only, machine_of, note_figures
from faults_prefect import own_prefect

from resonant.store import WorkerStore
from resonant.store.shared.run_watches import RunWatch, add_watch
from support.flow_runs import CRASHED, FAILED, TIMED_OUT, new_flow_name, run_with
from support.machine import finished
from support.prefect import patient_client
from support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.slow]

_RUNS = 20 if IS_LONG else 3
# As the worker runs the deployment.
_REPORT = """
from resonant.local.project import make_flows_importable
make_flows_importable()
import asyncio
from flows.reports import report_failed_runs
asyncio.run(report_failed_runs())
"""
_PATIENT = '{"patient": {"max_attempts": 1000, "base": 0.5, "cap": 2.0}}'
_DELIVERED = """SELECT e.id, count(*) AS deliveries, sum(d.status = 'delivered') AS delivered
    FROM resonant_events e JOIN resonant_deliveries d ON d.event_key = e.key GROUP BY e.id"""
# Sends in flight when a process is killed.
_WIDTH = 4
# A process imports everything in this time, more or less.
_STARTS_IN_SECONDS = 15.0
_MOST_DRAINS = 10
_CONCLUDES_IN_SECONDS = 300.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with own_prefect(tmp_path_factory.mktemp("prefect")) as started:
        yield started


@pytest.fixture
def machine(tmp_path, sqlite_url, server, receiver):
    machine = machine_of(
        tmp_path,
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
def rng():
    return random.Random()


async def begin_to_watch(url: str, flow_name: str) -> None:
    store = await WorkerStore.open(url)
    await store.write(add_watch, RunWatch(ENDPOINT, flow_name), who="me", now=time.time())
    await store.close()


def start_report(machine) -> subprocess.Popen[str]:
    """Start the flow in a process, as the schedule does."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-c", _REPORT], cwd=machine.home, env=machine.environment, **pipes
    )


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
    finished(start_report(machine), _CONCLUDES_IN_SECONDS)
    drain = machine.start("emit")
    # While it sends.
    wait_until(lambda: receiver.journal or drain.poll() is not None, _CONCLUDES_IN_SECONDS, every=0.01)
    drain.kill()
    drain.communicate()


def stop_receiver(server, machine, receiver, rng):
    machine.save_endpoint(ENDPOINT, "http://127.0.0.1:9/", timeout=5)
    finished(start_report(machine), _CONCLUDES_IN_SECONDS)
    kill_at_random(machine.start("emit"), rng)
    machine.save_endpoint(ENDPOINT, receiver.url, timeout=5)


def start_two(server, machine, receiver, rng):
    for processes in ([start_report(machine) for _ in range(2)], [machine.start("emit") for _ in range(2)]):
        for each in processes:
            assert finished(each, _CONCLUDES_IN_SECONDS).returncode == 0


_LONG = [
    pytest.param(each, marks=long_form_only("this starts many processes"), id=each.__name__)
    for each in (kill_report, stop_receiver, start_two)
]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "fault", [*(pytest.param(each, id=each.__name__) for each in (kill_server, kill_drain)), *_LONG]
)
def test_each_failed_run_is_stored_and_delivered_once(fault, server, machine, sqlite_url, receiver, rng):
    flow_name = new_flow_name()
    asyncio.run(begin_to_watch(sqlite_url, flow_name))
    receiver.mark()
    with patient_client(server.api_url) as api:
        runs = [run_with(api, flow_name, rng.choice([FAILED, CRASHED, TIMED_OUT])) for _ in range(_RUNS)]
    expected = {f"prefect-flow-run-{run['state']['id']}" for run in runs}

    fault(server, machine, receiver, rng)

    assert finished(start_report(machine), _CONCLUDES_IN_SECONDS).returncode == 0
    for _ in range(_MOST_DRAINS):
        machine.run("emit", timeout=_CONCLUDES_IN_SECONDS)
        rows = {
            row["id"]: (row["deliveries"], row["delivered"]) for row in Database(sqlite_url).query(_DELIVERED)
        }
        if all(delivered for _, delivered in rows.values()):
            break
    assert rows == dict.fromkeys(expected, (1, 1))
    received = receiver.received()
    assert received.keys() == expected
    repeats = sum(len(each) - 1 for each in received.values())
    assert repeats <= (_WIDTH if fault in (kill_drain, stop_receiver) else 0)
    note_figures(f"reports, {fault.__name__}", {"runs": len(runs), "repeats": repeats})
