"""The leases of a dispatcher's run, and the deliveries that wait in it."""

import asyncio
from collections import Counter

import pytest

from resonant.delivery.retry import GiveUp, Park, Retry, RetryPolicy
from resonant.dispatch.limits import Limits
from resonant.dispatch.send.unsent import LeaseLost
from resonant.errors import StoreUnavailable, UnexpectedStatus
from resonant.sinks.base import CallableSink
from support.desk import at_once
from support.dispatching import (
    START,
    Scene,
    another_worker,
    answering,
    appending_to,
    at_work,
    deliveries,
    enqueue,
    fail,
    failing_first,
    ran,
    rows,
    scene,
    sink_target,
    succeed,
)
from support.lanes import in_task_lane
from support.simulated_time import clock_from
from support.sqlite import locked
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane")


class TestStoreFirst:
    async def test_nothing_is_sent_before_its_event_and_its_begin_are_committed(self, tmp_path):
        seen = []

        async def send(event):
            query = "SELECT lease_owner, sending FROM resonant_deliveries JOIN resonant_events e ON e.key = event_key"
            seen.extend(rows(tmp_path, f"{query} WHERE e.id = '{event.id}'"))

        await ran(tmp_path, orders=send, due=20)
        assert seen == [("worker", 1)] * 20

    @in_task_lane
    async def test_an_outcome_and_its_decision_are_stored_before_they_are_reported(self, tmp_path):
        seen = {}

        async def emit_one(lease):
            outcome = await worker.dispatcher.attempt(lease.key)
            query = (
                "SELECT status, d.attempts, a.number, decision, a.delay FROM resonant_deliveries d "
                f"JOIN resonant_attempts a ON delivery_id = d.id WHERE d.id = {lease.delivery_id}"
            )
            [(*row, delay)] = rows(tmp_path, query)
            seen[type(outcome.decision)] = tuple(row)
            assert delay == outcome.attempt.delay
            if isinstance(outcome.decision, Retry):
                await worker.dispatcher.attempt(lease.key)

        sinks = {
            "fine": succeed,
            "down": answering(503),
            "waiting": answering(503, "60"),
            "refusing": answering(400),
        }
        async with scene(tmp_path, sinks=sinks, due=dict.fromkeys(sinks, 1)) as worker:
            await worker.run(emit_one)
        assert seen == {
            type(None): ("delivered", 1, 1, None),
            Retry: ("retrying", 1, 1, "retry"),
            Park: ("retrying", 1, 1, "park"),
            GiveUp: ("dead_letter", 1, 1, "give_up"),
        }


class TestLostLeases:
    @in_task_lane
    @pytest.mark.parametrize("retries", [False, True], ids=["before the send", "before a retry"])
    async def test_nothing_is_sent(self, tmp_path, retries):
        sent = []

        async def emit_one(lease):
            if retries:
                await worker.dispatcher.attempt(lease.key)
            else:
                worker.clock.advance(2.0)  # the claim has begun the send, which counts for a second
            await worker.lose_leases(tmp_path, to=None if retries else "other")
            with pytest.raises(LeaseLost):
                await worker.dispatcher.attempt(lease.key)

        async with scene(tmp_path, orders=answering(503, sent=sent), due=1) as worker:
            counts = await worker.run_until_lost(1, emit_one)
            assert str(counts).endswith(", 1 taken over by another worker")
        assert len(sent) == retries
        left = ("retrying", 1, None if retries else "other")  # begun with its claim: charged as a crash
        assert deliveries(tmp_path, "status, attempts, lease_owner") == [left]

    @pytest.mark.parametrize("answer", [None, UnexpectedStatus(503), UnexpectedStatus(400)])
    async def test_a_late_outcome_changes_only_the_history(self, tmp_path, answer):
        async def send(_event):
            await worker.lose_leases(tmp_path, to="other")
            if answer is not None:
                raise answer

        async with scene(tmp_path, orders=send, due=1) as worker:
            counts = await worker.run_until_lost(1)  # emit_one lets LeaseLost through
            assert (counts.lost, counts.delivered, counts.retried) == (1, 0, 0)
            assert not counts.dead_letters
        assert deliveries(tmp_path, "status, lease_owner") == [("retrying", "other")]
        # the crash that the other worker charged, and the attempt that came too late
        assert rows(tmp_path, "SELECT result, late FROM resonant_attempts ORDER BY id") == [
            ("lost", 0),
            ("delivered" if answer is None else "failed", 1),
        ]

    @pytest.mark.usefixtures("warm")
    async def test_a_delivery_that_is_lost_and_claimed_again_has_two_leases(self, tmp_path, quick_look):
        sent = []
        first = asyncio.Event()

        async def send(event):
            sent.append(event.id)
            if len(sent) == 1:
                await first.wait()

        async with at_work(tmp_path, orders=send, due=1) as (worker, run):
            await until(lambda: sent)
            await worker.lose_leases(tmp_path)
            await until(lambda: len(sent) == 2)
            first.set()
            counts = await run
        assert (counts.delivered, counts.lost) == (1, 1)
        assert deliveries(tmp_path, "status") == [("delivered",)]


def note_rescues(worker, rescues):
    """Let the list get the number of leases that each rescue ends; return a function that waits for more rescues."""
    rescue = worker.store.rescue

    async def rescue_and_note(*given, **options):
        rescues.append(await rescue(*given, **options))
        return rescues[-1]

    async def rescued(number=1):
        enough = len(rescues) + number
        await until(lambda: len(rescues) >= enough)

    worker.store.rescue = rescue_and_note
    return rescued


class TestSuspension:
    """The process, or the machine, stands still for longer than a lease, and another worker claims its deliveries."""

    @pytest.fixture(autouse=True)
    def _without_rescues(self, monkeypatch):
        """Let no rescue renew the leases before the other worker has claimed, which may take long."""
        monkeypatch.setattr("resonant.dispatch.claim.leases.RESCUE_SECONDS", 3600.0)

    @staticmethod
    async def suspend(worker, path, number):
        worker.clock.advance(100.0)
        async with another_worker(path, clock=worker.clock) as other:
            await other.rescue(at_once())
            assert len(await other.claim("orders", owner="other", limit=number)) == number

    async def test_nothing_is_sent_if_the_lease_is_lost_during_the_wait_for_the_rate(
        self, tmp_path, monkeypatch
    ):
        sent = []
        target = sink_target("orders", CallableSink(appending_to(sent)), rate=100)
        async with scene(tmp_path, orders=target, due=1) as worker:
            rate = (await worker.dispatcher._endpoints.open("orders")).rate
            wait = rate.wait

            async def wait_and_sleep(slot):
                await self.suspend(worker, tmp_path, 1)
                return await wait(slot)

            monkeypatch.setattr(rate, "wait", wait_and_sleep)
            worker.store.steady = worker.clock
            await worker.run_until_lost(1)
        assert not sent
        assert deliveries(tmp_path, "lease_owner") == [("other",)]

    async def test_sends_begun_before_it_continue_only_while_their_lease_is_held(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 4)
        sent = []

        async def send(event):
            sent.append(event.id)
            if len(sent) == 1:
                await self.suspend(worker, tmp_path, 4)
                await asyncio.sleep(0)

        limits = Limits(concurrency=1, endpoint_concurrency=1)
        async with scene(tmp_path, limits=limits, orders=send, due=4) as worker:
            worker.store.steady = worker.clock
            await worker.run_until_lost(4)
        assert sent == worker.ids[:1]

    async def test_after_a_long_lock_the_owners_of_leases_have_time_to_renew_them(
        self, tmp_path, monkeypatch, impatient_sqlite
    ):
        monkeypatch.setattr("resonant.dispatch.claim.leases.RESCUE_SECONDS", 0.0)
        rescues = []
        async with scene(tmp_path, limits=Limits(run_for=3600), orders=succeed, due=1) as worker:
            rescued = note_rescues(worker, rescues)
            async with another_worker(tmp_path, clock=worker.clock) as other:
                await other.begin(await other.claim("orders", owner="other", limit=1))
                async with worker.running():
                    await rescued()
                    with locked(tmp_path / "r.db"):
                        impatient_sqlite.clear()
                        await until(lambda: len(impatient_sqlite) > 1)
                        worker.clock.advance(70)
                    await rescued()
                    assert len(await other.renew("other")) == 1
                    worker.clock.advance(31)
                    await rescued()
        assert set(rescues) == {0}
        assert deliveries(tmp_path, "lease_owner, crashes") == [("other", 0)]


class TestLeases:
    async def test_a_lease_is_renewed_for_as_long_as_it_is_held_despite_an_outage(self, tmp_path):
        async def renew(*given, **options):
            if outages:
                raise outages.pop()
            return await renew_in_store(*given, **options)

        def lease_ends_at():
            [(moment,)] = deliveries(tmp_path, "available_at")
            return moment

        async def slow(_event):
            for _ in range(3):
                before = lease_ends_at()
                await until(lambda before=before: lease_ends_at() > before, every=0.1)

        outages = [StoreUnavailable("away")]
        options = {"clock": clock_from(START), "lease_seconds": 6.0, "due": 1}
        async with scene(tmp_path, orders=slow, **options) as worker:
            renew_in_store, worker.store.renew = worker.store.renew, renew
            counts = await worker.run()
        assert (counts.delivered, counts.lost) == (1, 0)
        assert not outages

    async def test_live_leases_are_waited_for_and_then_taken_over(self, tmp_path):
        said, clock = [], clock_from(START)
        async with scene(tmp_path, clock=clock, lease_seconds=6.0, orders=succeed, due=2) as worker:
            await worker.store.claim("orders", owner="killed", limit=1)
            assert (await worker.run(on_waiting=said.append)).delivered == 2
        (until_then,) = said
        assert until_then == pytest.approx(START + 6, abs=0.1)
        assert clock() >= until_then

    @in_task_lane
    async def test_a_briefly_parked_delivery_may_be_claimed_again_while_its_emission_ends(
        self, tmp_path, quick_look
    ):
        async def emit_one(lease):
            outcome = await worker.dispatcher.attempt(lease.key)
            if isinstance(outcome.decision, Park):
                worker.clock.advance(outcome.decision.delay)
                await until(lambda: len(tries) == 2)

        async def send(_event):
            tries.append(1)
            if len(tries) == 1:
                raise UnexpectedStatus(503, "60")
            await asyncio.sleep(0.1)

        tries = []
        async with scene(tmp_path, orders=send, due=1) as worker:
            counts = await worker.run(emit_one)
        assert (counts.parked, counts.delivered, counts.lost) == (1, 1, 0)


class TestWaiting:
    @in_task_lane
    async def test_a_waiting_retry_holds_no_slot(self, tmp_path):
        sent = []

        async def send(event):
            sent.append(event.id)
            if event.id == worker.ids[0] and sent.count(event.id) == 1:
                raise UnexpectedStatus(503)

        async def emit_one(lease):
            while isinstance((await worker.dispatcher.attempt(lease.key)).decision, Retry):
                await until(lambda: len(sent) == 4)

        async with scene(tmp_path, orders=send, limits=Limits(concurrency=1), due=4) as worker:
            await worker.run(emit_one)
        assert sent == [*worker.ids, worker.ids[0]]

    @in_task_lane
    @pytest.mark.usefixtures("warm")
    async def test_beyond_the_bound_retries_are_parked(self, tmp_path):
        arrived, decisions = [], []

        async def send(event):
            arrived.append(1)
            await until(lambda: len(arrived) == 4)  # all of them fail in the same moment
            await fail(event)

        async def emit_one(lease):
            decisions.append((await worker.dispatcher.attempt(lease.key)).decision)
            await until(lambda: len(decisions) == 4)

        options = {"orders": send, "limits": Limits(max_waiting=1), "due": 4}
        async with at_work(tmp_path, emit_one, **options) as (worker, _):
            await until(lambda: len(decisions) == 4 and not worker.dispatcher._flights)
        assert Counter(map(type, decisions)) == {Retry: 1, Park: 3}
        assert deliveries(tmp_path, "status, next_attempt_at") == [("retrying", START + 1)] * 4

    async def test_a_finished_waiter_leaves_its_place_to_the_next(self, tmp_path):
        limits = Limits(concurrency=1, max_waiting=1)
        # Of an endpoint that fails at first, the gate sends few requests a second.
        policy = RetryPolicy(max_attempts=3, base=1.5, factor=1.0, jitter="none")
        async with scene(tmp_path, orders=failing_first(2), limits=limits, policy=policy) as worker:
            for _ in range(5):
                await enqueue(worker.store)
                counts = await worker.run()
                worker.clock.advance(1.5)
            assert (counts.delivered, counts.parked) == (5, 0)

    @in_task_lane
    async def test_an_emission_that_ends_instead_of_waiting_releases_its_delivery(self, tmp_path):
        async def emit_one(lease):
            await worker.dispatcher.attempt(lease.key)

        async with scene(tmp_path, orders=failing_first(), due=1) as worker:
            counts = await worker.run(emit_one)
            assert (counts.delivered, counts.parked) == (0, 1)
            columns = "status, lease_owner, available_at"
            assert deliveries(tmp_path, columns) == [("retrying", None, START + 1)]
            worker.clock.advance(1)
            assert (await worker.run(emit_one)).delivered == 1
