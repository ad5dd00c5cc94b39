"""The gate in the dispatcher: deliveries that it holds are not sent, not charged, and sent when it lets them."""

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.limits import Limits
from resonant.dispatch.send.admission import Held
from resonant.dispatch.tracking import Tracker
from resonant.errors import UnexpectedStatus
from resonant.gate.controller import EndpointGate
from resonant.store import schema
from resonant.testing import Receiver
from support.dispatching import START, deliveries, enqueue, fail, http_target, rows, scene, succeed
from support.lanes import in_task_lane
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


def answering(status, retry_after=None, *, sent=None):
    """Return a sink that always fails with this status, and adds to ``sent``."""

    async def send(_event):
        if sent is not None:
            sent.append(1)
        raise UnexpectedStatus(status, retry_after)

    return send


class TestAnEndpointThatIsDown:
    @in_task_lane
    async def test_a_probe_that_starts_slowly_is_sent_before_the_next_one_is_claimed(self, tmp_path):
        async def emit_one(lease):
            await asyncio.sleep(0.3)  # three seconds of the clock: longer than the wait for the next probe
            await worker.dispatcher.attempt(lease.key)

        async with quick_scene(tmp_path, orders=succeed, limits=LONG) as worker:
            await enqueue(worker.store, 5)
            await worker.set_gate(state="probing", failing_since=START, probe_at=START)
            async with worker.running(emit_one):
                await until(lambda: worker.dispatcher.counts.delivered)

    async def test_a_run_ends_after_a_long_outage_and_charges_nothing_to_held_deliveries(self, tmp_path):
        async with quick_scene(tmp_path, orders=fail) as worker:
            await enqueue(worker.store, 20)
            await worker.set_gate(
                state="probing", since=START, failing_since=START - 100, probe_at=START + 100
            )
            own = Tracker(worker.store)
            own.add(id_ for (id_,) in deliveries(tmp_path, "id"))
            await worker.run(own=own)
            await worker.run()
            await own.finish()
            assert own.outcomes.held == 20
        assert Counter(deliveries(tmp_path, "status, attempts, lease_owner")) == {("pending", 0, None): 20}

    async def test_a_run_ends_when_only_held_deliveries_are_left_even_if_each_probe_takes_long(
        self, tmp_path
    ):
        sent = []

        async def hang(_event):
            sent.append(1)
            await asyncio.sleep(1.5)  # 15 seconds of the clock: longer than the wait for the next probe
            raise UnexpectedStatus(503)

        async with quick_scene(tmp_path, orders=hang) as worker:
            await enqueue(worker.store, 20)
            await worker.set_gate(state="probing", failing_since=START - 60, probe_at=START)
            await worker.run()
        assert len(sent) == 1

    async def test_a_failed_probe_is_parked_and_charged_once(self, tmp_path):
        sent = []
        async with quick_scene(tmp_path, orders=answering(503, sent=sent)) as worker:
            await enqueue(worker.store, 1)
            await worker.set_gate(state="probing", failing_since=START - 100, probe_at=START)
            await worker.run()
        # On a slow machine the retry is due, and so is another probe, before the run ends.
        assert sent
        charged = ("retrying", len(sent), len(sent))
        assert deliveries(tmp_path, "status, attempts, round_attempts") == [charged]


class TestAnEndpointThatRefusesConnections:
    async def test_it_gets_its_deliveries_soon_after_it_accepts_connections_again(self, tmp_path):
        receiver = Receiver()
        async with receiver:
            pass  # it keeps its port
        quick_scene_to_it = quick_scene(tmp_path, orders=http_target("orders", receiver.url), limits=LONG)
        async with quick_scene_to_it as worker:
            await enqueue(worker.store, 5)
            # Without connecting, the next probe would be sent ten seconds later.
            hour_ago, next_probe = worker.clock() - 3600, worker.clock() + 100
            await worker.set_gate(state="probing", failing_since=hour_ago, probe_at=next_probe)
            async with worker.running():
                await asyncio.sleep(0.7)
                assert worker.dispatcher.counts.attempts == 0
                async with receiver:
                    await until(lambda: len({each.headers["webhook-id"] for each in receiver.journal}) == 5)
        assert Counter(deliveries(tmp_path, "status, attempts")) == {("delivered", 1): 5}

    async def test_a_sink_that_cannot_connect_alone_is_only_probed(self, tmp_path):
        async with quick_scene(tmp_path, orders=succeed, limits=Limits(run_for=0.5)) as worker:
            await enqueue(worker.store, 1)
            await worker.set_gate(state="probing", failing_since=START, probe_at=START + 100)
            assert (await worker.run()).attempts == 0


class TestAPausedEndpoint:
    async def test_nothing_is_claimed_and_the_run_ends(self, tmp_path):
        async with scene(tmp_path, orders=succeed, others=succeed) as worker:
            await enqueue(worker.store, 5)
            await enqueue(worker.store, 5, endpoint="others")
            await worker.set_gate(state="paused", paused_by="ops")
            assert (await worker.run()).delivered == 5
        columns = "endpoint, status, attempts, lease_token, available_at"
        assert Counter(deliveries(tmp_path, columns)) == {
            ("orders", "pending", 0, 0, START): 5,
            ("others", "delivered", 1, 1, None): 5,
        }

    async def test_a_run_sends_again_when_it_is_resumed(self, tmp_path):
        async with quick_scene(tmp_path, orders=succeed, limits=Limits(run_for=60)) as worker:
            await enqueue(worker.store, 5)
            await worker.set_gate(state="paused", paused_by="ops")
            async with worker.running():
                await asyncio.sleep(0.1)
                assert worker.dispatcher.counts.attempts == 0
                await worker.set_gate(state="probing", failing_since=START, probe_at=START, paused_by=None)
                await until(lambda: worker.dispatcher.counts.delivered == 5)

    async def test_a_run_sends_again_if_the_gate_became_normal_and_was_removed_long_ago(self, tmp_path):
        async with quick_scene(tmp_path, orders=succeed, limits=Limits(run_for=60)) as worker:
            await enqueue(worker.store, 5)
            await worker.set_gate(state="paused", paused_by="ops")  # its epoch is that of a long time ago
            async with worker.running():
                await until(worker.governs)
                await worker.store.write(
                    lambda connection: connection.execute(schema.gates.delete()) and None
                )
                await until(lambda: worker.dispatcher.counts.delivered == 5)
            assert await worker.store.gates() == {}

    async def test_an_endpoint_that_answers_410_gets_one_request_and_is_paused(self, tmp_path):
        sent = []
        async with scene(tmp_path, orders=answering(410, sent=sent)) as worker:
            await enqueue(worker.store, 50)
            await worker.run()
            assert (await worker.gate()).is_gone
        assert len(sent) == 1
        assert Counter(deliveries(tmp_path, "status, attempts, lease_owner")) == {
            ("dead_letter", 1, None): 1,
            ("pending", 0, None): 49,
        }


class TestRetryAfter:
    async def test_to_every_request_it_stops_the_whole_endpoint(self, tmp_path):
        sent = []
        async with quick_scene(tmp_path, orders=answering(429, "600", sent=sent)) as worker:
            await enqueue(worker.store, 50)
            await worker.run()
            assert (await worker.gate()).not_before > worker.clock() + 200
        assert len(sent) <= 8


class TestThePilot:
    async def test_only_the_pilot_claims_until_its_lease_ends(self, tmp_path):
        async def send(_event):
            sent.append(worker.clock())

        sent = []
        async with quick_scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store, 3)
            ends_at = worker.clock() + 2
            await worker.set_gate(state="paced", pace=100.0, pilot="another", pilot_until=ends_at)
            assert (await worker.run()).delivered == 3
        assert min(sent) >= ends_at

    async def test_it_claims_at_the_pace_while_the_answers_take_long(self, tmp_path):
        async def send(event):
            sent.append(event.id)
            await answer.wait()

        sent, answer = [], asyncio.Event()
        async with scene(tmp_path, clock=time.time, orders=send) as worker:
            await enqueue(worker.store, 100)
            await worker.set_gate(state="paced", since=time.time(), pace=200.0)
            async with worker.running():
                await until(lambda: len(sent) == worker.dispatcher.limits.endpoint_concurrency)
                answer.set()

    @in_task_lane
    async def test_a_replay_leaves_the_place_of_the_pilot_to_runs_that_send_due_deliveries(self, tmp_path):
        async with scene(tmp_path, orders=answering(429), policy=PATIENT) as worker:
            await enqueue(worker.store, 30)
            replay = asyncio.create_task(worker.dispatcher.emit_given(worker.emit_one, claimed(worker, 30)))
            await until(worker.governs)
            await asyncio.wait_for(replay, 30)
            gate = await worker.gate()
        assert (gate.state, gate.pilot) == ("paced", None)


async def claimed(worker, count):
    """Yield a batch of leases, as a replay does."""
    yield await worker.store.claim("orders", owner="worker", limit=count)


class TestClaimedDeliveries:
    @in_task_lane
    async def test_a_retry_that_is_due_while_the_gate_holds_is_released(self, tmp_path):
        async def emit_one(lease):
            await worker.dispatcher.attempt(lease.key)
            await worker.set_gate(state="paused")
            worker.clock.advance(1)
            await until(worker.governs)
            with pytest.raises(Held):
                await worker.dispatcher.attempt(lease.key)

        async with scene(tmp_path, orders=fail) as worker:
            await enqueue(worker.store)
            assert (await worker.run(emit_one)).attempts == 1
        columns = "status, attempts, lease_owner, available_at"
        assert deliveries(tmp_path, columns) == [("retrying", 1, None, START + 1)]

    async def test_deliveries_claimed_when_the_gate_closes_are_released_uncharged(self, tmp_path):
        async with quick_scene(tmp_path, orders=answering(503), limits=LONG) as worker:
            await enqueue(worker.store, 100)
            async with worker.running():
                await until(lambda: worker.governs() and not worker.dispatcher._in_flight.total_busy)
                assert (await worker.gate()).state == "probing"
        attempts = Counter(attempts for (attempts,) in deliveries(tmp_path, "attempts"))
        assert attempts[0] >= 40
        leased = "SELECT count(*) FROM resonant_deliveries WHERE lease_owner IS NOT NULL"
        assert rows(tmp_path, leased) == [(0,)]

    @in_task_lane
    async def test_a_replay_to_a_paused_endpoint_leaves_its_deliveries_due(self, tmp_path):
        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store, 3)
            await worker.set_gate(state="paused")
            counts = await worker.dispatcher.emit_given(worker.emit_one, claimed(worker, 3))
            assert counts.attempts == 0
        assert deliveries(tmp_path, "status, lease_owner, available_at") == [("pending", None, START)] * 3

    async def test_they_rarely_ask_the_gate_before_the_first_answer_and_continue_at_once(
        self, tmp_path, monkeypatch
    ):
        asked, sent = [], []
        answer = asyncio.Event()
        may_send = EndpointGate.may_send

        def count(gate, now, *in_flight):
            asked.append(now)
            return may_send(gate, now, *in_flight)

        async def send(event):
            sent.append(event.id)
            await answer.wait()

        monkeypatch.setattr(EndpointGate, "may_send", count)
        # Without a second send after some time.
        monkeypatch.setattr("resonant.gate.measurements._STEP_SECONDS", 3600.0)
        async with scene(tmp_path, clock=time.time, orders=send) as worker:
            await enqueue(worker.store, 3)
            async with worker.running() as run:
                await until(lambda: sent)
                asked.clear()
                await asyncio.sleep(0.6)
                assert (len(sent), len(asked) <= 4) == (1, True)
                answer.set()
                assert (await run).delivered == 3


async def test_a_change_that_cannot_be_announced_is_logged_and_ends_nothing(tmp_path, caplog):
    def announce(_before, _after):
        raise RuntimeError("no server")

    async with scene(tmp_path, orders=answering(410), on_gate_change=announce) as worker:
        await enqueue(worker.store, 1)
        await worker.run()
        assert (await worker.gate()).state == "paused"
    assert "the change of orders to paused was not announced" in caplog.text
