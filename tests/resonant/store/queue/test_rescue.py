"""The deliveries of lost workers."""

import asyncio
import math
import resource
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection

from resonant.delivery.retry import Park, Retry
from resonant.errors import StoreUnavailable
from resonant.store import schema
from resonant.store.queue.locked_rows import lock
from resonant.store.queue.rescue import LOST_LEASES_BEFORE_GIVING_UP, ExpiryWatch, shorten_waits
from resonant.testing import FixedClock
from support.desk import at_once
from support.postgresql import number_waiting, on_postgresql
from support.sqlite import on_sqlite
from support.waiting import until

HOUR = 3_600.0


@contextmanager
def no_file_grows():
    """Let this process write no file in the block, as a quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_send_that_had_begun_is_shown_as_lost_by_a_fault_of_ours(desk):
    """The simulation checks what it costs the delivery."""
    desk.enqueue("evt_1")
    desk.begin(desk.claim_one(owner="gone"))
    desk.clock.advance(61)
    desk.rescue()
    row = desk.row("evt_1")
    assert (row["category"], row["code"], row["error_type"]) == ("unknown", "worker_lost", "WorkerLost")
    assert row["error"] == "the worker was lost while sending"
    [lost] = desk.history("evt_1")
    assert (lost.result, lost.owner, lost.blame, lost.code) == ("lost", "gone", "local", "worker_lost")
    assert lost.maybe_processed is True


def test_the_last_crash_ends_the_wait_that_the_gate_had_shortened(desk):
    desk.enqueue("evt_1")
    due_at = desk.clock() + 10
    desk.fail(desk.claim_one(), Park(10, due_at, backoff_until=due_at + HOUR))
    desk.clock.advance(11)
    for _ in range(LOST_LEASES_BEFORE_GIVING_UP):
        assert desk.row("evt_1")["backoff_until"] is not None
        desk.begin(desk.claim_one())
        desk.clock.advance(61)
        desk.rescue()
    assert desk.row("evt_1")["reason"] == "crashed"
    assert desk.row("evt_1")["backoff_until"] is None


def test_more_leases_than_one_transaction_takes_are_all_rescued(desk):
    desk.enqueue(*(f"evt_{number}" for number in range(600)))
    leases = desk.claim(600)
    desk.begin(*leases[:350])
    desk.clock.advance(61)
    assert desk.rescue() == 600
    assert desk.status().retrying == 350
    assert desk.status().balanced


@on_sqlite
class TestWatch:
    """A process rescues expired leases once it has watched for half a lease, in which live owners could renew them."""

    @pytest.fixture
    def watch(self, desk):
        """The watch of a process that starts while the lease of a begun send has expired."""
        desk.enqueue("evt_1")
        desk.begin(desk.claim_one(owner="other"))
        desk.clock.advance(70)
        return ExpiryWatch(desk.store.lease_seconds, desk.clock)

    @pytest.fixture
    def old_watch(self, desk):
        """The watch of a process that has rescued for long, before another process begins a send."""
        watch = ExpiryWatch(desk.store.lease_seconds, desk.clock)
        for _ in range(4):
            assert desk.rescue(watch) == 0
            desk.clock.advance(10)
        desk.enqueue("evt_1")
        desk.begin(desk.claim_one(owner="other"))
        return watch

    def test_the_leases_of_owners_that_have_ended_are_taken_at_once(self, desk, watch):
        assert desk.rescue(watch) == 0
        assert desk.rescue_from("other") == 1

    @pytest.mark.parametrize(
        ("pauses", "rescued"),
        [
            ([0, 10, 10, 10, 10, 10, 10], [0, 0, 0, 0, 0, 0, 1]),
            ([70, 10, 10, 10], [0, 0, 0, 1]),
            ([25, 25, 25], [0, 0, 0]),
        ],
        ids=["none", "once", "again"],
    )
    def test_a_process_rescues_at_the_end_of_a_lease_or_watches_again_after_a_lock_or_an_outage(
        self, desk, old_watch, pauses, rescued
    ):
        for pause, number in zip(pauses, rescued, strict=True):
            desk.clock.advance(pause)
            assert desk.rescue(old_watch) == number

    @pytest.mark.parametrize("looks", [1, 5])
    def test_after_its_writes_have_failed_it_watches_again(self, desk, clock, looks):
        """Those of live owners fail, too, for example on a full disk, and reads do not show that."""
        watch = ExpiryWatch(60, clock)
        desk.enqueue("evt_1")
        desk.begin(desk.claim_one(owner="other"))
        with no_file_grows():
            for _ in range(5):
                clock.advance(10)
                assert desk.rescue(watch) == 0
            for _ in range(looks):
                clock.advance(10)
                with pytest.raises(StoreUnavailable, match="the disk cannot be written"):
                    desk.rescue(watch)
        assert desk.rescue(watch) == 0
        assert len(desk.run(desk.store.renew("other"))) == 1

    def test_it_watches_again_if_only_the_stores_clock_jumps(self, desk):
        steady = FixedClock(0.0)
        watch = ExpiryWatch(desk.store.lease_seconds, steady)
        desk.rescue(watch)
        desk.enqueue("evt_1")
        desk.claim_one(owner="other")

        def rescued_after(seconds):
            steady.advance(seconds)
            return desk.rescue(watch)

        desk.clock.advance(3_600)
        assert [rescued_after(15) for _ in range(2)] == [0, 0]
        desk.clock.advance(70 - 3_600)
        assert [rescued_after(15) for _ in range(2)] == [0, 0]
        assert rescued_after(15) == 1


@on_postgresql
def test_a_rescue_waits_for_a_lock_of_the_table_that_prevents_renewals(desk, clock):
    """As ``CREATE INDEX`` takes. Without it, a process without due deliveries would not notice the lock."""

    async def rescue_while_it_is_locked():
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(
                Connection.exec_driver_sql, "LOCK TABLE resonant_deliveries IN SHARE MODE"
            )
            rescuing = asyncio.create_task(desk.store.rescue(ExpiryWatch(60, clock)))
            await until(lambda: rescuing.done() or desk.store.read(number_waiting))
            assert not rescuing.done()
        await rescuing

    desk.run(rescue_while_it_is_locked())


class TestAfterASlowSearch:
    """An attempt that took 0.1 seconds, a second ago."""

    @pytest.fixture
    def watch(self, clock):
        watch = ExpiryWatch(60, clock)
        for _ in range(4):
            watch.may_rescue(clock())
            clock.advance(10)
        watch.note_search(clock(), -math.inf, 0.1)
        clock.advance(1)
        return watch

    def test_the_next_search_begins_at_about_the_time_of_the_last(self, clock, watch):
        assert watch.since(clock()) == clock() - 6
        assert watch.since(clock() - HOUR) == -math.inf, "a clock that was set back needs a complete search"

    def test_a_complete_search_finds_what_was_left_out(self, desk, watch):
        desk.clock.advance(-100)  # the clock of its owner
        desk.enqueue("evt_1")
        desk.claim_one()
        desk.clock.advance(100)
        assert desk.rescue(watch) == 0
        desk.clock.advance(1)
        assert desk.rescue(watch) == 1

    @pytest.mark.parametrize(("seconds", "waits"), [(0.01, 0), (0.1, 2), (60.0, 10)])
    def test_a_slower_search_delays_the_next_complete_one_for_longer_up_to_ten_seconds(
        self, clock, watch, seconds, waits
    ):
        watch.note_search(clock(), -math.inf, seconds)
        clock.advance(waits - 0.1)
        assert waits == 0 or watch.since(clock()) > -math.inf
        clock.advance(0.5)
        assert watch.since(clock()) == -math.inf


class TestAStoreWhoseClockWasSetBack:
    @pytest.fixture
    def desk(self, desk):
        """A store whose clock was an hour ahead until now."""
        desk.clock.advance(HOUR)
        return desk

    @staticmethod
    def fail(desk, decision, event="evt_1", **attempt):
        desk.enqueue(event)
        desk.fail(desk.claim_one(), decision, **attempt)

    @pytest.mark.parametrize(("delay", "backoff"), [(600, None), (900, 950)], ids=["retry", "Retry-After"])
    def test_a_parked_delivery_waits_for_its_delay_and_not_for_the_difference(self, desk, delay, backoff):
        now = desk.clock()
        decision = Park(delay, now + delay, backoff_until=backoff and now + backoff)
        self.fail(desk, decision, retry_after=backoff and delay - 10)
        desk.clock.advance(-HOUR)
        desk.rescue()
        now = desk.clock()
        row = desk.row("evt_1")
        assert row["next_attempt_at"] == row["available_at"] == now + delay
        assert row["backoff_until"] == (backoff and now + backoff)
        desk.clock.advance(10)
        desk.rescue()
        assert desk.row("evt_1")["available_at"] == now + delay, "once is enough"

    def test_a_delivery_that_was_rescued_is_due_at_once(self, desk):
        desk.enqueue("evt_1")
        desk.begin(desk.claim_one(owner="gone"))
        desk.rescue_from("gone")
        desk.clock.advance(-HOUR)
        desk.rescue()
        assert desk.claim_one().attempts == 1

    def test_a_lease_ends_after_its_duration(self, desk):
        desk.enqueue("evt_1", "evt_2")
        desk.claim(2, owner="gone")
        desk.clock.advance(-HOUR)
        assert desk.rescue() == 0
        assert {row["available_at"] for row in desk.rows(schema.deliveries)} == {desk.clock() + 60}

    def test_a_retry_that_waits_in_its_process_waits_for_its_delay_if_the_process_ends(self, desk):
        self.fail(desk, Retry(20, desk.clock() + 20))
        desk.clock.advance(-HOUR)
        assert desk.rescue() == 0
        assert desk.rescue_from("worker") == 1
        row = desk.row("evt_1")
        assert row["next_attempt_at"] == row["available_at"] == desk.clock() + 20

    @pytest.mark.parametrize("outcome", ["lost", "released", "parked"])
    def test_a_replayed_delivery_waits_no_longer_even_without_other_claims(self, desk, outcome):
        desk.clock.advance(-HOUR)
        desk.bury("evt_1")
        desk.clock.advance(HOUR)
        [lease] = desk.replay().leases
        if outcome == "released":
            desk.run(desk.store.release([lease]))
        elif outcome == "parked":
            desk.fail(lease, desk.park_for(20))
        desk.clock.advance(-HOUR / 2)
        desk.rescue()
        desk.clock.advance(61)
        desk.rescue()
        assert desk.claim_one().round == 2

    def test_a_wait_that_was_decided_before_and_recorded_after_a_first_search_is_shortened(self, desk):
        desk.enqueue("evt_1")
        lease, decision = desk.claim_one(), desk.park_for(40)
        desk.begin(lease)
        desk.clock.advance(-HOUR)
        desk.rescue()
        assert desk.record(desk.failed(lease, decision))
        desk.rescue()
        assert desk.row("evt_1")["available_at"] == desk.clock() + 40

    def test_a_wait_that_is_recorded_at_the_end_of_a_long_lease_is_shortened(self, desk):
        """Its process was cut off for a while: its decision is by the old clock, and it still has the lease."""
        desk.store.lease_seconds = 300.0
        desk.enqueue("evt_1")
        lease, decision = desk.claim_one(), desk.park_for(40)
        desk.begin(lease)
        desk.clock.advance(-HOUR)
        for _ in range(59):
            desk.rescue()
            desk.clock.advance(5)
        assert desk.record(desk.failed(lease, decision))
        desk.rescue()
        assert desk.row("evt_1")["available_at"] == desk.clock() + 40

    def test_a_wait_after_a_claim_that_was_not_noted_before_is_shortened(self, desk):
        for endpoint in ("orders", "crm"):
            desk.enqueue(f"evt_{endpoint}", endpoint=endpoint)
            desk.deliver(desk.claim_one(endpoint=endpoint))
        desk.clock.advance(2 * HOUR)
        self.fail(desk, desk.park_for(40))
        desk.clock.advance(-HOUR)
        desk.enqueue("evt_2", endpoint="crm")
        desk.claim_one(endpoint="crm")
        desk.run(desk.store.note_claims())
        desk.rescue()
        assert desk.row("evt_1")["available_at"] == desk.clock() + 40

    def test_a_new_delivery_waits_no_longer_behind_a_backlog_that_is_due(self, desk):
        desk.enqueue("evt_1", "evt_2", apart=1)
        desk.deliver(desk.claim_one())
        desk.clock.advance(-HOUR)
        desk.enqueue("evt_3")
        desk.rescue()
        assert {lease.event.id for lease in desk.claim()} == {"evt_2", "evt_3"}

    def test_leases_and_other_endpoints_stay(self, desk):
        self.fail(desk, desk.park_for(600), "evt_2")
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        desk.clock.advance(-HOUR)
        desk.enqueue("evt_other", endpoint="audit")
        parked = desk.park_for(9_000)
        desk.fail(desk.claim_one(endpoint="audit"), parked)
        desk.rescue()
        assert desk.row("evt_1")["lease_token"] == lease.token
        assert desk.row("evt_other")["available_at"] == parked.next_attempt_at

    def test_many_waits_are_shortened_in_several_transactions(self, desk):
        desk.enqueue(*(f"evt_{number}" for number in range(6)))
        for lease in desk.claim(6):
            desk.fail(lease, desk.park_for(600))
        desk.clock.advance(-HOUR)
        now = desk.clock()
        assert [desk.write(shorten_waits, now=now, lease_seconds=60, limit=4) for _ in range(3)] == [4, 2, 0]

    @on_postgresql
    @pytest.mark.parametrize("kind", ["parked", "leased", "waits in its process"])
    def test_a_wait_that_another_transaction_has_locked_is_shortened_later(self, desk, clock, kind):
        if kind == "leased":
            desk.enqueue("evt_1")
            desk.claim_one()
        else:
            delay = Park(600, clock() + 600) if kind == "parked" else Retry(20, clock() + 20)
            self.fail(desk, delay)
        before = desk.row("evt_1")
        clock.advance(-HOUR)

        async def rescue_while_it_is_locked():
            async with desk.store.transaction() as transaction:
                await transaction.run_sync(lock, [before["id"]])
                await desk.store.rescue(at_once())

        desk.run(rescue_while_it_is_locked())
        assert desk.row("evt_1") == before
        desk.rescue()
        after = desk.row("evt_1")
        assert {before[name] - after[name] for name in ("available_at", "next_attempt_at")} <= {0, HOUR}
        assert after != before


class TestProducersWithAClockAhead:
    @pytest.fixture
    def desk(self, desk):
        """A new delivery, stored under a clock that was an hour ahead."""
        desk.clock.advance(HOUR)
        desk.enqueue("evt_ahead")
        desk.clock.advance(-HOUR)
        return desk

    def test_a_new_delivery_is_due_at_once(self, desk):
        assert desk.claim() == []

        desk.rescue()

        row = desk.row("evt_ahead")
        assert row["next_attempt_at"] == row["round_started_at"] == desk.clock()
        assert [lease.event.id for lease in desk.claim()] == ["evt_ahead"]
        assert desk.status().balanced

    def test_other_new_deliveries_are_sent_first(self, desk):
        desk.enqueue("evt_1")
        desk.rescue()
        [lease] = desk.claim()
        desk.deliver(lease)
        desk.rescue()
        assert [lease.event.id, desk.claim_one().event.id] == ["evt_1", "evt_ahead"]

    def test_parked_and_leased_deliveries_keep_their_times(self, desk):
        desk.rescue()
        decision = desk.park_for(600)
        desk.fail(desk.claim_one(), decision)
        desk.enqueue("evt_leased")
        lease = desk.claim_one()

        desk.rescue()

        assert desk.row("evt_ahead")["available_at"] == decision.next_attempt_at
        assert desk.row("evt_leased")["lease_token"] == lease.token

    def test_a_rescue_of_one_endpoint_leaves_the_others(self, desk):
        desk.rescue(endpoint="audit")
        assert desk.claim() == []
        desk.rescue(endpoint="orders")
        assert len(desk.claim()) == 1
