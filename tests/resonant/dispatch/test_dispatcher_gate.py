"""The gate in the dispatcher: deliveries that it holds are not sent, not charged, and sent when it lets them."""

import asyncio
from collections import Counter
from uuid import uuid4

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.limits import Limits
from resonant.dispatch.send.unsent import Held
from resonant.dispatch.tracking import Tracker
from resonant.errors import UnexpectedStatus
from resonant.events import Event
from resonant.gate.controller import EndpointGate
from resonant.sinks.base import CallableSink
from resonant.store import schema
from resonant.store.shared.gates import FailingType
from support.dispatching import (
    START,
    answering,
    appending_to,
    at_work,
    deliveries,
    fail,
    ran,
    scene,
    sink_target,
    succeed,
)
from support.lanes import in_task_lane
from support.simulated_time import clock_from
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane")

LONG = Limits(run_for=3600)
PATIENT = RetryPolicy(max_attempts=3, base=1.0, factor=1.0)
DOWN = {"state": "probing", "since": START, "failing_since": START, "probe_at": START}


def timed(**options):
    """Return the options of a scene whose clock goes with the simulated time."""
    return {"clock": clock_from(START), "policy": PATIENT} | options


class TestAnEndpointThatIsDown:
    @in_task_lane
    async def test_a_probe_that_starts_slowly_is_sent_before_the_next_one_is_claimed(self, tmp_path):
        async def emit_one(lease):
            await asyncio.sleep(3)  # longer than the wait for the next probe
            await worker.dispatcher.attempt(lease.key)

        options = timed(orders=succeed, limits=LONG, due=5, gate=DOWN)
        async with scene(tmp_path, **options) as worker, worker.running(emit_one):
            await until(lambda: worker.counts.delivered)

    async def test_a_run_ends_after_a_long_outage_and_charges_nothing_to_held_deliveries(self, tmp_path):
        gate = DOWN | {"failing_since": START - 100, "probe_at": START + 100}
        async with scene(tmp_path, **timed(orders=fail, due=20, gate=gate)) as worker:
            own = Tracker(worker.store)
            own.add(id_ for (id_,) in deliveries(tmp_path, "id"))
            await worker.run(own=own)
            await worker.run()
            await own.finish()
            assert own.outcomes.held == 20
        assert set(deliveries(tmp_path, "status, attempts")) == {("pending", 0)}

    async def test_a_run_ends_when_only_held_deliveries_are_left_even_if_each_probe_takes_long(
        self, tmp_path
    ):
        async def refuse_late(event):
            sent.append(event.id)
            await asyncio.sleep(15)  # longer than the wait for the next probe
            raise UnexpectedStatus(503)

        sent = []
        gate = DOWN | {"failing_since": START - 60}
        await ran(tmp_path, **timed(orders=refuse_late, due=20, gate=gate))
        assert len(sent) == 1
        charged = Counter(deliveries(tmp_path, "status, attempts, round_attempts"))
        assert charged == {("retrying", 1, 1): 1, ("pending", 0, 0): 19}

    async def test_it_gets_its_deliveries_soon_after_it_accepts_connections_again(self, tmp_path):
        async def connect():
            connected.append(worker.clock())
            if is_refusing:
                raise ConnectionRefusedError

        connected, is_refusing = [], True
        target = sink_target("orders", CallableSink(succeed), connect=connect)
        gate = DOWN | {"failing_since": START - 3600, "probe_at": START + 100}
        async with at_work(tmp_path, **timed(orders=target, limits=LONG, due=5, gate=gate)) as (worker, _):
            await asyncio.sleep(7)
            assert (len(connected), worker.counts.attempts) == (2, 0)
            is_refusing = False
            await until(lambda: worker.counts.delivered == 5)
        assert worker.clock() < START + 20, "without connecting, the next probe would be sent much later"

    async def test_a_sink_that_cannot_connect_alone_is_only_probed(self, tmp_path):
        gate = DOWN | {"probe_at": START + 100}
        worker = await ran(tmp_path, **timed(orders=succeed, limits=Limits(run_for=50), due=1, gate=gate))
        assert worker.counts.attempts == 0


class TestAPausedEndpoint:
    async def test_nothing_is_claimed_and_the_run_ends(self, tmp_path):
        due = {"orders": 5, "others": 5}
        await ran(tmp_path, orders=succeed, others=succeed, due=due, gate={"state": "paused"})
        columns = "endpoint, status, attempts, lease_token, available_at"
        assert Counter(deliveries(tmp_path, columns)) == {
            ("orders", "pending", 0, 0, START): 5,
            ("others", "delivered", 1, 1, None): 5,
        }

    async def test_a_run_sends_again_when_it_is_resumed(self, tmp_path):
        options = timed(orders=succeed, limits=LONG, due=5, gate={"state": "paused"})
        async with at_work(tmp_path, **options) as (worker, _):
            await asyncio.sleep(10)
            assert worker.counts.attempts == 0
            await worker.set_gate(**DOWN)
            await until(lambda: worker.counts.delivered == 5)

    async def test_a_run_sends_again_if_the_gate_became_normal_and_was_removed_long_ago(self, tmp_path):
        # Its epoch is that of a long time ago.
        options = timed(orders=succeed, limits=LONG, due=5, gate={"state": "paused"})
        async with at_work(tmp_path, **options) as (worker, _):
            await until(worker.governs)
            await worker.store.write(lambda connection: connection.execute(schema.gates.delete()) and None)
            await until(lambda: worker.counts.delivered == 5)
            assert await worker.store.gates() == {}

    async def test_an_endpoint_that_answers_410_gets_one_request_and_is_paused(self, tmp_path):
        sent = []
        async with scene(tmp_path, orders=answering(410, sent=sent), due=50) as worker:
            await worker.run()
            assert (await worker.gate()).is_gone
        assert len(sent) == 1
        left = Counter(deliveries(tmp_path, "status, attempts"))
        assert left == {("dead_letter", 1): 1, ("pending", 0): 49}


async def test_a_retry_after_to_every_request_stops_the_whole_endpoint(tmp_path):
    sent = []
    async with scene(tmp_path, **timed(orders=answering(429, "600", sent=sent), due=50)) as worker:
        await worker.run()
        assert (await worker.gate()).not_before > worker.clock() + 200
    assert len(sent) <= 8


class TestThePilot:
    async def test_only_the_pilot_claims_until_its_lease_ends(self, tmp_path):
        async def send(_event):
            sent.append(worker.clock())

        sent, ends_at = [], START + 2
        gate = {"state": "paced", "pace": 100.0, "pilot": "another", "pilot_until": ends_at}
        async with scene(tmp_path, **timed(orders=send, due=3, gate=gate)) as worker:
            assert (await worker.run()).delivered == 3
        assert min(sent) >= ends_at

    async def test_it_claims_at_the_pace_while_the_answers_take_long(self, tmp_path):
        sent, answer = [], asyncio.Event()
        gate = {"state": "paced", "since": START, "pace": 200.0}
        options = timed(orders=appending_to(sent, answer), due=100, gate=gate)
        async with at_work(tmp_path, **options) as (worker, _):
            await until(lambda: len(sent) == worker.dispatcher.limits.endpoint_concurrency)
            answer.set()

    @in_task_lane
    async def test_a_replay_leaves_the_place_of_the_pilot_to_runs_that_send_due_deliveries(
        self, tmp_path, real_time
    ):
        async with scene(tmp_path, orders=answering(429), policy=PATIENT, due=30) as worker:
            replay = asyncio.create_task(worker.dispatcher.emit_given(worker.emit_one, claimed(worker, 30)))
            await until(worker.governs)
            await asyncio.wait_for(replay, 30)
            gate = await worker.gate()
        assert (gate.state, gate.pilot) == ("paced", None)


class TestAnEventTypeThatFails:
    @pytest.fixture
    def broken(self):
        """The types that the endpoint rejects."""
        return {"bad"}

    @pytest.fixture
    def sent(self):
        """The types of the events in the order of their sends."""
        return []

    @pytest.fixture
    def send(self, broken, sent):
        """The sink of the endpoint."""

        async def send(event):
            sent.append(event.type)
            if event.type in broken:
                raise UnexpectedStatus(503)

        return send

    async def test_the_others_are_delivered_and_then_it_is_only_probed_until_it_works(
        self, tmp_path, send, broken, sent
    ):
        async with scene(tmp_path, **timed(orders=send, limits=LONG)) as worker:
            await enqueue_types(worker, bad=100, good=300)
            async with worker.running(patience=3600):
                await until(lambda: worker.counts.delivered == 300)
                assert worker.clock() < START + 30
                [held] = (await worker.gate()).failing
                assert (held.event_type, held.failure) == ("bad", "http 503")
                await asyncio.sleep(300)
                before = len(sent)
                await asyncio.sleep(300)
                assert 2 <= len(sent) - before <= 20
                assert worker.counts.dead_letters == {}
                broken.clear()
                await until(lambda: worker.counts.delivered == 400)
                assert (await worker.gate()).failing == ()
                assert worker.clock() < START + 800

    async def test_new_events_of_others_are_sent_at_once(self, tmp_path, send):
        async with scene(tmp_path, **timed(orders=send, limits=LONG)) as worker:
            await enqueue_types(worker, bad=100, good=300)
            async with worker.running(patience=3600):
                await until(lambda: worker.counts.delivered == 300)
                for n in range(1, 20):
                    await asyncio.sleep(7)
                    await enqueue_types(worker, bad=3, good=1)
                    began = worker.clock()
                    await until(lambda: worker.counts.delivered == 300 + n)  # noqa: B023 - awaited in this round
                    assert worker.clock() < began + 1

    async def test_the_others_are_delivered_after_an_outage_too(self, tmp_path, send, broken, sent):
        async with scene(tmp_path, **timed(orders=send, limits=LONG)) as worker:
            broken |= {"good", "fine"}
            await enqueue_types(worker, bad=200, good=200, fine=200)
            async with worker.running(patience=3600):
                await until(worker.governs)
                await asyncio.sleep(60)
                assert (await worker.gate()).state == "probing"
                broken -= {"good", "fine"}
                sent.clear()
                began = worker.clock()
                await until(lambda: worker.counts.delivered == 400)
                assert worker.clock() < began + 60
                assert [each.event_type for each in (await worker.gate()).failing] == ["bad"]
        assert sent.count("bad") <= 40

    async def test_a_run_ends_though_its_deliveries_are_held(self, tmp_path, send, sent):
        failing = FailingType("bad", START - 100, "http 503", START + 100, START)
        gate = {"failing": (failing,)}
        async with scene(tmp_path, **timed(orders=send, gate=gate)) as worker:
            await enqueue_types(worker, bad=20, good=20)
            assert (await worker.run()).delivered == 20
            assert worker.clock() < START + 5
        assert set(sent) == {"good"}
        assert Counter(deliveries(tmp_path, "status, attempts")) == {("delivered", 1): 20, ("pending", 0): 20}

    async def test_a_run_ends_though_it_found_that_the_type_fails(self, tmp_path, send, sent):
        async with scene(tmp_path, **timed(orders=send)) as worker:
            await enqueue_types(worker, bad=50, good=100)
            assert (await worker.run(patience=200)).delivered == 100
            assert worker.counts.dead_letters == {}
            assert worker.clock() < START + 100
            assert [each.event_type for each in (await worker.gate()).failing] == ["bad"]
        assert sent.count("bad") <= 40

    async def test_claimed_ones_are_released_uncharged(self, tmp_path, send):
        async with scene(tmp_path, **timed(orders=send, limits=LONG)) as worker:
            await enqueue_types(worker, good=20)
            await enqueue_types(worker, bad=100)
            async with worker.running():
                await until(lambda: worker.counts.delivered == 20)
                await worker.set_gate(failing=(FailingType("bad", START, "", START + 100, START),))
                await until(lambda: not worker.dispatcher._flights.counts.busy)
        assert deliveries(tmp_path, "attempts").count((0,)) >= 50


async def enqueue_types(worker, **numbers):
    """Store so many events of each type, in turn."""
    given = [
        Event(type=name, source="/shop", data=n, id=f"{name}_{uuid4().hex}")
        for n in range(max(numbers.values()))
        for name, number in numbers.items()
        if n < number
    ]
    await worker.store.enqueue(given, "orders")


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

        async with scene(tmp_path, orders=fail, due=1) as worker:
            assert (await worker.run(emit_one)).attempts == 1
        assert deliveries(tmp_path, "status, available_at") == [("retrying", START + 1)]

    async def test_deliveries_claimed_when_the_gate_closes_are_released_uncharged(self, tmp_path):
        async with at_work(tmp_path, **timed(orders=fail, limits=LONG, due=100)) as (worker, _):
            await until(lambda: worker.governs() and not worker.dispatcher._flights.counts.busy)
            assert (await worker.gate()).state == "probing"
        assert deliveries(tmp_path, "attempts").count((0,)) >= 40

    @in_task_lane
    async def test_a_replay_to_a_paused_endpoint_leaves_its_deliveries_due(self, tmp_path):
        async with scene(tmp_path, orders=succeed, due=3, gate={"state": "paused"}) as worker:
            counts = await worker.dispatcher.emit_given(worker.emit_one, claimed(worker, 3))
            assert counts.attempts == 0
        assert deliveries(tmp_path, "status, available_at") == [("pending", START)] * 3

    async def test_they_rarely_ask_the_gate_before_the_first_answer_and_continue_at_once(
        self, tmp_path, monkeypatch
    ):
        asked, sent, answer = [], [], asyncio.Event()
        may_send = EndpointGate.may_send

        def count(gate, now, *in_flight):
            asked.append(now)
            return may_send(gate, now, *in_flight)

        monkeypatch.setattr(EndpointGate, "may_send", count)
        # Without a second send after some time.
        monkeypatch.setattr("resonant.gate.measurements._SOON_SECONDS", 3600.0)
        options = timed(orders=appending_to(sent, answer), due=3)
        async with at_work(tmp_path, **options) as (_, run):
            await until(lambda: sent)
            asked.clear()
            await asyncio.sleep(0.6)
            assert len(sent) == 1
            assert len(asked) <= 4
            answer.set()
            assert (await run).delivered == 3


async def test_a_change_that_cannot_be_announced_is_logged_and_ends_nothing(tmp_path, caplog):
    def announce(_before, _after):
        raise RuntimeError("no server")

    async with scene(tmp_path, orders=answering(410), on_gate_change=announce, due=1) as worker:
        await worker.run()
        assert (await worker.gate()).state == "paused"
    assert "the change of orders to paused was not announced" in caplog.text
