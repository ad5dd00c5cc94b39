"""What becomes of the deliveries of workers that were lost."""

from __future__ import annotations

import pytest

from resonant.store import schema
from resonant.store.queue.rescue import LOST_LEASES_BEFORE_GIVING_UP, ExpiryWatch
from support.sqlite import listening


def crash(desk) -> None:
    """Claim, begin to send, and be gone."""
    desk.begin(desk.claim_one())
    desk.clock.advance(61)
    assert desk.rescue() == 1


def test_an_expired_lease_is_rescued_and_a_live_one_is_not(desk):
    desk.enqueue("evt_1", "evt_2")
    desk.claim_one(owner="gone")
    desk.clock.advance(30)
    desk.claim_one(owner="alive")
    desk.clock.advance(30)
    assert desk.rescue() == 1
    assert desk.rescue() == 0
    assert desk.status().in_flight == 1


def test_a_lease_under_which_nothing_was_sent_costs_nothing(desk):
    desk.enqueue("evt_1")
    before = desk.row("evt_1")
    desk.claim_one()
    desk.clock.advance(61)
    desk.rescue()
    row = desk.row("evt_1")
    assert row.pop("lease_token") > before.pop("lease_token")
    assert row == before
    assert desk.history("evt_1") == ()


def test_a_retry_that_was_waited_for_keeps_its_time_when_its_worker_is_lost(desk):
    desk.enqueue("evt_1")
    decision = desk.retry_in(500)
    desk.fail(desk.claim_one(), decision)
    desk.clock.advance(61)
    desk.rescue()
    assert desk.row("evt_1")["available_at"] == decision.next_attempt_at
    assert [each.result for each in desk.history("evt_1")] == ["failed"]
    assert desk.row("evt_1")["crashes"] == 0


def test_a_send_that_had_begun_is_charged_as_a_crash_and_shown_as_lost(desk):
    desk.enqueue("evt_1")
    desk.begin(desk.claim_one(owner="gone"))
    desk.clock.advance(61)
    desk.rescue()
    row = desk.row("evt_1")
    assert (row["status"], row["crashes"], row["attempts"], row["sending"]) == ("retrying", 1, 1, False)
    assert row["round_attempts"] == 0, "a crash of ours is not taken from the endpoint's budget"
    assert row["available_at"] == row["next_attempt_at"] == desk.clock()
    assert (row["category"], row["code"], row["error_type"]) == ("unknown", "worker_lost", "WorkerLost")
    [lost] = desk.history("evt_1")
    assert (lost.number, lost.result, lost.owner, lost.decision) == (1, "lost", "gone", "retry")
    assert lost.maybe_processed is True
    assert (lost.blame, lost.code) == ("local", "worker_lost")
    assert desk.claim_one().attempts == 1
    assert desk.status().balanced


def test_the_fifth_crash_makes_a_dead_letter(desk):
    desk.enqueue("evt_1")
    for crashes in range(1, LOST_LEASES_BEFORE_GIVING_UP):
        crash(desk)
        assert (desk.row("evt_1")["crashes"], desk.delivery("evt_1").status) == (crashes, "retrying")
    crash(desk)
    assert LOST_LEASES_BEFORE_GIVING_UP == 5
    delivery = desk.delivery("evt_1")
    assert (delivery.status, delivery.reason, delivery.finished_at) == (
        "dead_letter",
        "crashed",
        desk.clock(),
    )
    assert (delivery.next_attempt_at, delivery.leased_by) == (None, None)
    history = desk.history("evt_1")
    assert [each.decision for each in history] == ["retry"] * 4 + ["give_up"]
    assert history[-1].next_attempt_at is None
    assert desk.claim() == []
    status = desk.status()
    assert (status.dead_letter, status.by_category, status.balanced) == (1, {"unknown": 1}, True)
    desk.fold()
    ended = [row for row in desk.rows(schema.rollups) if row["measure"] == "delivery"]
    assert [(row["result"], row["code"], row["count"]) for row in ended] == [
        ("dead_letter", "worker_lost", 1)
    ]


def test_crashes_between_ordinary_failures_are_counted_apart_from_them(desk):
    desk.enqueue("evt_1")
    crash(desk)
    desk.fail(desk.claim_one(), desk.park_for(0))
    crash(desk)
    row = desk.row("evt_1")
    assert (row["attempts"], row["round_attempts"], row["crashes"]) == (3, 1, 2)


def test_leases_of_owners_known_to_be_over_are_rescued_before_they_expire(desk):
    desk.enqueue("evt_1", "evt_2", "evt_3")
    desk.begin(*desk.claim(2, owner="over"))
    desk.claim(1, owner="alive")
    assert desk.rescue(owners=["over", "never-seen"]) == 2
    assert desk.status().in_flight == 1
    assert desk.rescue(owners=[]) == 0


def test_leases_of_other_owners_are_not_rescued_although_they_expired(desk):
    desk.enqueue("evt_1")
    desk.claim(1, owner="somebody")
    desk.clock.advance(1_000)
    assert desk.rescue(owners=["over"]) == 0


def test_rescue_can_be_kept_to_one_endpoint(desk):
    desk.enqueue("evt_1", endpoint="orders")
    desk.enqueue("evt_2", endpoint="audit")
    desk.claim_one(endpoint="orders")
    desk.claim_one(endpoint="audit")
    desk.clock.advance(61)
    assert desk.rescue(endpoint="audit") == 1
    assert desk.status(endpoint="orders").pending == 1
    assert desk.rescue() == 1


def test_more_leases_than_one_transaction_takes_are_all_rescued(desk):
    desk.enqueue(*(f"evt_{number}" for number in range(1_200)))
    leases = desk.claim(1_200)
    desk.begin(*leases[:700])
    desk.clock.advance(61)
    assert desk.rescue() == 1_200
    assert desk.status().retrying == 700
    assert desk.status().balanced


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_rescued_can_be_delivered(desk, times):
    desk.enqueue("evt_1")
    for _ in range(times):
        crash(desk)
    assert desk.deliver(desk.claim_one(owner="successor"))
    assert [each.result for each in desk.history("evt_1")] == ["lost"] * times + ["delivered"]
    assert desk.status().balanced


class TestAfterALock:
    """The rescuing process could not write for a while, so the owners of leases could perhaps not renew them either."""

    @pytest.fixture
    def watch(self, desk):
        """The watch of a process that rescued a moment ago, before another process began a send."""
        watch = ExpiryWatch(desk.store.lease_seconds)
        desk.rescue(watch=watch)
        desk.enqueue("evt_1")
        desk.begin(desk.claim_one(owner="other"))
        return watch

    def test_live_owners_have_time_to_renew(self, desk, watch):
        desk.clock.advance(70)
        assert desk.rescue(watch=watch) == 0

        assert desk.run(desk.store.renew("other")) == 1
        for _ in range(5):
            desk.clock.advance(10)
            assert desk.rescue(watch=watch) == 0
        assert desk.row("evt_1")["crashes"] == 0

    def test_leases_that_are_not_renewed_then_are_rescued(self, desk, watch):
        desk.clock.advance(70)
        for _ in range(3):
            assert desk.rescue(watch=watch) == 0
            desk.clock.advance(10)
        assert desk.rescue(watch=watch) == 1
        assert desk.row("evt_1")["crashes"] == 1

    def test_a_second_lock_in_the_meantime_adds_to_the_time(self, desk, watch):
        for _ in range(3):
            desk.clock.advance(25)
            assert desk.rescue(watch=watch) == 0

    def test_a_clock_that_was_ahead_for_a_moment_does_not_prevent_rescues(self, desk, watch):
        desk.clock.advance(3_600)
        assert desk.rescue(watch=watch) == 0
        desk.clock.advance(70 - 3_600)
        assert desk.rescue(watch=watch) == 1

    def test_a_process_that_starts_during_the_lock_waits_too(self, open_desk, sqlite_url):
        desk = open_desk(sqlite_url)
        desk.enqueue("evt_1")
        desk.begin(desk.claim_one(owner="other"))
        desk.clock.advance(70)

        def wait_for_lock(connection):
            if connection.get_execution_options().get("write"):
                desk.clock.advance(3)

        watch = ExpiryWatch(desk.store.lease_seconds)
        with listening("begin", wait_for_lock):
            assert desk.rescue(watch=watch) == 0
        desk.clock.advance(20)
        assert desk.rescue(watch=watch) == 0
        desk.clock.advance(11)
        assert desk.rescue(watch=watch) == 1


class TestProducersWithAClockAhead:
    @pytest.fixture
    def desk(self, desk):
        """A new delivery, stored under a clock that was an hour ahead."""
        desk.clock.advance(3_600)
        desk.enqueue("evt_ahead")
        desk.clock.advance(-3_600)
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
