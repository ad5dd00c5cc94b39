"""The gate in the dispatcher: what it holds is not sent, not charged, and sent when the gate lets it."""

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.admission import Held
from resonant.dispatch.limits import Limits
from resonant.dispatch.tracking import Tracker
from resonant.errors import UnexpectedStatus
from resonant.store.shared.gates import GateChange, change_gate, read_gate
from support.dispatching import START, deliveries, enqueue, fail, rows, scene, succeed
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane", "quick_look")

LONG = Limits(run_for=3600)
PATIENT = RetryPolicy(max_attempts=3, base=1.0, factor=1.0)


class QuickClock:
    """Ten seconds of the store's time pass in a second."""

    def __init__(self):
        self._start = time.monotonic()

    def __call__(self):
        return START + 10 * (time.monotonic() - self._start)


@asynccontextmanager
async def quick_scene(path, **options):
    """A scene with a quick clock, in which a retry waits instead of moving the clock."""
    async with scene(path, clock=QuickClock(), policy=PATIENT, **options) as worker:
        worker.wait = lambda seconds: asyncio.sleep(seconds / 10)
        worker.wait_for_parked = lambda: asyncio.sleep(0)
        yield worker


async def set_gate(store, **fields):
    """Write the gate of `orders`, as another process would."""
    before = await store.read(read_gate, "orders")
    assert await store.write(change_gate, GateChange(before, replace(before, **fields)))


@asynccontextmanager
async def running(worker, condition):
    """Run until the condition, then cancel the run."""
    run = asyncio.create_task(worker.dispatcher.run(worker.emit_one, emit_chunk=worker.emit_chunk))
    await until(condition)
    yield
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def read(store):
    return await store.read(read_gate, "orders")


class TestAnEndpointThatIsDown:
    async def test_it_gets_a_few_probes_and_then_everything(self, tmp_path):
        async def send(_event):
            sent.append(worker.clock())
            if worker.clock() < broken_until:
                raise UnexpectedStatus(503)

        sent = []
        async with quick_scene(tmp_path, orders=send, limits=LONG) as worker:
            await enqueue(worker.store, 60)
            broken_until = worker.clock() + 5
            summary = worker.dispatcher.summary
            async with running(worker, lambda: summary.delivered == 60):
                assert summary.dead_letters == {}
        # Every second without a gate. On a slow machine all claimed ones are sent before the first failure is known.
        assert sum(at < broken_until for at in sent) < 90
        assert rows(tmp_path, "SELECT count(*) FROM resonant_deliveries WHERE status = 'delivered'") == [
            (60,)
        ]

    async def test_a_probe_that_starts_slowly_is_sent_before_the_next_one_is_claimed(self, tmp_path):
        async def emit_one(lease):
            await asyncio.sleep(0.3)  # three seconds of the clock: longer than the wait for the next probe
            await worker.dispatcher.attempt(lease.key)

        async with quick_scene(tmp_path, orders=succeed, limits=LONG) as worker:
            await enqueue(worker.store, 5)
            await set_gate(worker.store, state="probing", failing_since=START, probe_at=START)
            running = asyncio.create_task(worker.dispatcher.run(emit_one))
            await until(lambda: worker.dispatcher.summary.delivered, 2)
            running.cancel()
            await asyncio.wait([running])

    async def test_the_changes_that_this_run_made_are_announced(self, tmp_path):
        async def send(_event):
            if not seen:
                raise UnexpectedStatus(503)

        seen = []
        async with quick_scene(
            tmp_path,
            limits=LONG,
            on_gate_change=lambda before, after: seen.append((before.state, after.state)),
            orders=send,
        ) as worker:
            await enqueue(worker.store, 20)
            async with running(worker, lambda: len(seen) >= 2):
                pass
        assert seen[:2] == [("normal", "probing"), ("probing", "paced")]

    async def test_a_run_ends_when_it_has_been_down_for_long_and_what_is_held_is_charged_nothing(
        self, tmp_path
    ):
        async with quick_scene(tmp_path, orders=fail) as worker:
            await enqueue(worker.store, 20)
            await set_gate(
                worker.store,
                state="probing",
                since=START,
                failing_since=START - 100,
                probe_at=START + 100,
            )
            own = Tracker(worker.store)
            own.add(id_ for (id_,) in deliveries(tmp_path, "id"))
            await worker.run(own=own)
            await worker.run()
            await own.finish()
            assert own.outcomes.held == 20
        assert Counter(deliveries(tmp_path, "status, attempts, lease_owner")) == {("pending", 0, None): 20}

    async def test_a_failed_probe_is_parked_and_charged_once(self, tmp_path):
        async def send(_event):
            sent.append(worker.clock())
            raise UnexpectedStatus(503)

        sent = []
        async with quick_scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store, 1)
            await set_gate(worker.store, state="probing", failing_since=START - 100, probe_at=START)
            await worker.run()
        # On a slow machine the retry is due, and so is another probe, before the run ends.
        assert sent
        assert deliveries(tmp_path, "status, attempts, round_attempts") == [
            ("retrying", len(sent), len(sent))
        ]


class TestAPausedEndpoint:
    async def test_nothing_is_claimed_and_the_run_ends(self, tmp_path):
        async with scene(tmp_path, orders=succeed, others=succeed) as worker:
            await enqueue(worker.store, 5)
            await enqueue(worker.store, 5, endpoint="others")
            await set_gate(worker.store, state="paused", paused_by="ops")
            summary = await worker.run()
            assert summary.delivered == 5
        columns = "endpoint, status, attempts, lease_token, available_at"
        assert Counter(deliveries(tmp_path, columns)) == {
            ("orders", "pending", 0, 0, START): 5,
            ("others", "delivered", 1, 1, None): 5,
        }

    async def test_a_run_sends_again_when_it_is_resumed(self, tmp_path):
        async with quick_scene(tmp_path, orders=succeed, limits=Limits(run_for=60)) as worker:
            await enqueue(worker.store, 5)
            await set_gate(worker.store, state="paused", paused_by="ops")
            running = asyncio.create_task(worker.run())
            await asyncio.sleep(0.1)
            assert worker.dispatcher.summary.attempts == 0
            await set_gate(worker.store, state="probing", failing_since=START, probe_at=START, paused_by=None)
            await until(lambda: worker.dispatcher.summary.delivered == 5)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    async def test_an_endpoint_that_answers_410_gets_one_request_and_is_paused(self, tmp_path):
        async def gone(_event):
            sent.append(1)
            raise UnexpectedStatus(410)

        sent = []
        async with scene(tmp_path, orders=gone) as worker:
            await enqueue(worker.store, 50)
            await worker.run()
            assert (await read(worker.store)).is_gone
        assert len(sent) == 1
        assert Counter(deliveries(tmp_path, "status, attempts, lease_owner")) == {
            ("dead_letter", 1, None): 1,
            ("pending", 0, None): 49,
        }


async def test_a_retry_after_to_every_request_stops_the_whole_endpoint(tmp_path):
    async def busy(_event):
        sent.append(1)
        raise UnexpectedStatus(429, "600")

    sent = []
    async with quick_scene(tmp_path, orders=busy) as worker:
        await enqueue(worker.store, 50)
        await worker.run()
        assert (await read(worker.store)).not_before > worker.clock() + 200
    assert len(sent) <= 8


async def test_a_retry_after_to_one_event_in_a_hundred_holds_nothing_else(tmp_path):
    async def send(event):
        if int(event.body) % 100 == 50:
            raise UnexpectedStatus(429, "600")

    async with quick_scene(tmp_path, orders=send) as worker:
        await enqueue(worker.store, 300)
        summary = await worker.run()
        assert (await read(worker.store)).not_before is None
    assert (summary.delivered, summary.parked) == (297, 3)


async def test_the_place_of_a_pilot_that_died_is_taken(tmp_path):
    async with quick_scene(tmp_path, orders=succeed) as worker:
        await enqueue(worker.store, 3)
        await set_gate(
            worker.store, state="paced", pace=100.0, pilot="another", pilot_until=worker.clock() + 2
        )
        assert (await worker.run()).delivered == 3


async def test_only_the_pilot_claims(tmp_path):
    async with scene(tmp_path, orders=succeed, limits=Limits(run_for=0.3)) as worker:
        await enqueue(worker.store, 3)
        await set_gate(worker.store, state="paced", pace=100.0, pilot="another", pilot_until=START + 3)
        assert (await worker.run()).delivered == 0
    assert deliveries(tmp_path, "lease_token") == [(0,)] * 3


@pytest.mark.slow
async def test_stalls_of_the_own_loop_do_not_slow_a_paced_endpoint_down(tmp_path):
    async def send(_event):
        sent.append(1)
        await asyncio.sleep(0.01)

    async def stall():
        while True:
            await asyncio.sleep(0.8)
            time.sleep(0.2)

    sent, paces = [], []
    async with scene(tmp_path, orders=send, clock=time.time, limits=LONG) as worker:
        await enqueue(worker.store, 2_000)
        await set_gate(worker.store, state="paced", pace=200.0)
        stalling = asyncio.create_task(stall())
        async with running(worker, lambda: len(sent) > 100):
            for _ in range(40):
                paces.append((await read(worker.store)).pace)
                await asyncio.sleep(0.1)
        stalling.cancel()
        await asyncio.wait([stalling])
    assert min(paces) >= 100.0


class TestWhatIsClaimedAlready:
    async def test_a_retry_that_wakes_up_while_the_gate_holds_goes_back(self, tmp_path):
        async def emit_one(lease):
            await worker.dispatcher.attempt(lease.key)
            await set_gate(worker.store, state="paused")
            worker.clock.advance(1)
            await until(lambda: worker.dispatcher._gates.governs("orders"))
            with pytest.raises(Held):
                await worker.dispatcher.attempt(lease.key)

        async with scene(tmp_path, orders=fail) as worker:
            await enqueue(worker.store)
            summary = await asyncio.wait_for(worker.dispatcher.run(emit_one), 30)
        assert summary.attempts == 1
        assert deliveries(tmp_path, "status, attempts, lease_owner, available_at") == [
            ("retrying", 1, None, START + 1)
        ]

    async def test_what_was_claimed_when_the_gate_closed_goes_back_uncharged(self, tmp_path):
        async def send(_event):
            await asyncio.sleep(0)
            raise UnexpectedStatus(503)

        def are_all_back():
            dispatcher = worker.dispatcher
            return dispatcher._gates.governs("orders") and not dispatcher._in_flight.total_busy

        async with quick_scene(tmp_path, orders=send, limits=LONG) as worker:
            await enqueue(worker.store, 100)
            async with running(worker, are_all_back):
                assert (await read(worker.store)).state == "probing"
        attempts = Counter(attempts for (attempts,) in deliveries(tmp_path, "attempts"))
        assert attempts[0] >= 40
        assert rows(tmp_path, "SELECT count(*) FROM resonant_deliveries WHERE lease_owner IS NOT NULL") == [
            (0,)
        ]

    async def test_a_replay_to_a_paused_endpoint_leaves_its_deliveries_due(self, tmp_path):
        async def batches():
            yield await worker.store.claim("orders", owner="worker", limit=3)

        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store, 3)
            await set_gate(worker.store, state="paused")
            summary = await worker.dispatcher.emit_given(worker.emit_one, batches())
            assert summary.attempts == 0
        assert deliveries(tmp_path, "status, lease_owner, available_at") == [("pending", None, START)] * 3

    async def test_a_replay_gives_the_place_of_the_pilot_up_for_those_that_send_what_is_due(self, tmp_path):
        async def throttled(_event):
            raise UnexpectedStatus(429)

        async def batches():
            yield await worker.store.claim("orders", owner="worker", limit=30)

        async with scene(tmp_path, orders=throttled, policy=PATIENT) as worker:
            await enqueue(worker.store, 30)
            replay = asyncio.create_task(worker.dispatcher.emit_given(worker.emit_one, batches()))
            await until(lambda: worker.dispatcher._gates.governs("orders"))
            await asyncio.wait_for(replay, 30)
            gate = await read(worker.store)
        assert (gate.state, gate.pilot) == ("paced", None)


async def test_a_change_that_cannot_be_announced_is_logged_and_ends_nothing(tmp_path, caplog):
    def announce(_before, _after):
        raise RuntimeError("no server")

    async def gone(_event):
        raise UnexpectedStatus(410)

    async with scene(tmp_path, orders=gone, on_gate_change=announce) as worker:
        await enqueue(worker.store, 1)
        await worker.run()
        assert (await read(worker.store)).state == "paused"
    assert "the change of orders to paused was not announced" in caplog.text
