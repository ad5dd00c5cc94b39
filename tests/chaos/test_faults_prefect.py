"""The Prefect server, or the worker, goes away and comes back while events are emitted."""

import asyncio
import contextlib
import time
from collections import Counter

import pytest
from chaos_facts import Database
from faults import (
    ENDPOINT,
    LANES,
    Fault,
    assert_one_line,
    long_form_only,
    machine_of,
    make_events,
    note_figures,
    write_lines,
)
from faults_prefect import own_prefect
from prefect.events import Event as PrefectEvent
from prefect.events.clients import get_events_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from resonant.store import WorkerStore
from resonant.store.shared.announcements import add_announcement, prefect_event, read_announcements
from resonant.testing import FixedClock
from support.dispatching import opened
from support.machine import WORKER, Machine, finished
from support.prefect import patient_client
from support.receivers import started_receiver
from support.waiting import wait_until
from tasks.announcements import SENT_AGAIN_SECONDS, announce

# They stop their servers, and start them again.
pytestmark = [pytest.mark.engine, pytest.mark.own_server]

_AWAY_SECONDS = 30.0
# Six tries of Prefect's client, a minute or so, to say how the run ended; and once more that it failed.
_GIVES_UP_SECONDS = 240.0
# One send at a time, so that a run takes as long as the fault.
_WIDTH = 1
# So many events, sent one by one, take longer than that and the server's start, so the run must report its end to Prefect.
_OUTLASTING = 1500
_DELIVERED = "SELECT count(*) AS number FROM resonant_deliveries WHERE status = 'delivered'"


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
    assert not machine.database.exists()


@long_form_only("Prefect's client waits for two minutes")
def test_a_lost_server_is_one_line_after_all_events_are_sent(server, machine, sqlite_url, receiver):
    fault, stored = Fault(sqlite_url, receiver), Database(sqlite_url)
    with emitting(machine, fault, 0, 100) as process:
        server.kill()
        try:
            wait_until(lambda: stored.query(_DELIVERED)[0]["number"] == 100)
            done = finished(process, _GIVES_UP_SECONDS)
        finally:
            process.kill()
            server.start()
    fault.account()
    assert_one_line(done, f"the Prefect server at {server.api_url} became unreachable", "`resonant status`")


@long_form_only("the heartbeats must be missing for 90 seconds")
@pytest.mark.timeout(900)
def test_runs_of_a_lost_worker_crash_within_two_minutes_and_their_leases_end(tmp_path, sqlite_url):
    machine = machine_of(tmp_path, sqlite_url)
    with (
        machine.up() as up,
        started_receiver(tmp_path / "silent", "support.receiver_scripts:silent") as silent,
    ):
        machine.succeed("endpoint", "add", ENDPOINT, silent.url, "--allow-private", "--timeout", "50")
        lines = write_lines(tmp_path / "events.jsonl", make_events(1))
        assert machine.run("enqueue", str(lines), "--endpoint", ENDPOINT).returncode == 0
        [owner] = wait_until(lambda: _owners(sqlite_url), 200)
        heartbeat = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{owner}"]},
        }
        wait_until(
            lambda: up.api.post("/events/filter", json={"filter": heartbeat, "limit": 1}).json()["events"]
        )
        worker = up.find(*WORKER)
        worker.suspend()  # as if its machine was lost: it does not report the crash
        lost_at = time.monotonic()
        for each in worker.children(recursive=True):
            each.kill()
        wait_until(lambda: up.api.get(f"/flow_runs/{owner}").json()["state_type"] == "CRASHED", 180)
        seconds = time.monotonic() - lost_at
        worker.resume()
        wait_until(lambda: owner not in _owners(sqlite_url), 120)
    note_figures("heartbeats of a lost worker", {"seconds until Crashed": round(seconds)})
    assert seconds <= 120


def _owners(url: str) -> list[str]:
    query = "SELECT DISTINCT lease_owner FROM resonant_deliveries WHERE lease_owner IS NOT NULL"
    return [row["lease_owner"] for row in Database(url).query(query)]


@pytest.fixture
def forgetful_server(tmp_path):
    """A server with Prefect's own broker, which drops messages beyond 10,000."""
    broker = {"PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect.server.utilities.messaging.memory"}
    with own_prefect(tmp_path / "forgetful", **broker) as started:
        yield started


@long_form_only("the server needs minutes for so many events")
@pytest.mark.timeout(900)
async def test_an_announcement_reaches_the_feed_despite_a_burst_and_a_killed_server(
    forgetful_server, sqlite_url
):
    """The store's clock is behind, so that what Prefect dropped can be sent again at once."""
    clock = FixedClock(time.time() - 100_000)
    async with opened(sqlite_url, clock=clock) as store:
        with temporary_settings({PREFECT_API_URL: forgetful_server.api_url}):
            flood = asyncio.create_task(_flood(20_000))
            while not flood.done():
                await asyncio.sleep(1)
                await _announce(store, clock)
            await flood
            sent = await _when_confirmed(store, clock)
            note_figures("a flood of task runs", {"announcements": len(sent), "sends": sum(sent.values())})

            await _announce(store, clock)
            forgetful_server.kill()
            forgetful_server.start()
            [(_, sends)] = (await _when_confirmed(store, clock)).items()
            assert sends > 1


async def _flood(count: int) -> None:
    resource = {"prefect.resource.id": "prefect.task-run.of-a-flood"}
    async with get_events_client(checkpoint_every=1000) as client:
        for _ in range(count):
            await client.emit(PrefectEvent(event="prefect.task-run.Running", resource=resource))


async def _announce(store: WorkerStore, clock: FixedClock) -> None:
    event = prefect_event("resonant.test.alert", "hooks", {}, at=time.time())
    await store.write(add_announcement, event, now=clock())
    await announce(store)


async def _when_confirmed(store: WorkerStore, clock: FixedClock) -> Counter[str]:
    """Announce again until the feed has all; return how often each was sent."""
    sends = Counter(each.id for each in await store.read(read_announcements))
    assert sends
    before = {each.id: each.sent_at for each in await store.read(read_announcements)}
    give_up_at = time.monotonic() + 600
    while await store.read(read_announcements):
        assert time.monotonic() < give_up_at
        await asyncio.sleep(3)
        clock.advance(SENT_AGAIN_SECONDS + 1)
        await announce(store)
        for each in await store.read(read_announcements):
            sends[each.id] += each.sent_at != before[each.id]
            before[each.id] = each.sent_at
    return sends
