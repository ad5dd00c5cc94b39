"""What an operator does to deliveries: replay, cancel, purge, and the audit of it."""

from __future__ import annotations

import asyncio

import pytest

from resonant.dead_letters import operations
from resonant.delivery.retry import GiveUp
from resonant.store import schema
from resonant.store.views.selection import Selection


def die(desk, *event_ids, endpoint="orders", reason="exhausted", **attempt):
    """Accept these events and let each of them fail for good, a second after the other."""
    for event_id in event_ids:
        desk.enqueue(event_id, endpoint=endpoint)
        desk.fail(desk.claim_one(endpoint=endpoint), GiveUp(reason), **attempt)
        desk.clock.advance(1)


def replay(desk, selection=None, **options):
    return desk.replay(selection, **options).leases


def cancel(desk, selection=Selection(), *, limit=100):  # noqa: B008 - frozen
    return desk.write(operations.cancel, selection, limit=limit, now=desk.clock())


def purge(desk, status="dead_letter", *, before=None, limit=100):
    conditions = operations.purgeable(status, finished_before=desk.clock() if before is None else before)

    def pick_and_purge(connection):
        picked = operations.pick_final(connection, conditions, limit=limit)
        return operations.purge(connection, [key.id for key in picked], now=desk.clock())

    return desk.write(pick_and_purge)


def counted(desk, measure):
    desk.fold()
    return sum(row["count"] for row in desk.rows(schema.rollups) if row["measure"] == measure)


def ids(leases):
    return [lease.event.id for lease in leases]


class TestReplay:
    def test_begins_a_new_round_with_the_whole_budget(self, desk):
        desk.enqueue("evt_1")
        desk.begin(desk.claim_one())
        desk.clock.advance(61)
        desk.rescue()
        desk.fail(desk.claim_one(), desk.park_for(5))
        desk.clock.advance(5)
        desk.fail(desk.claim_one(), GiveUp("exhausted"))
        desk.clock.advance(100)
        [lease] = replay(desk)
        assert (lease.round, lease.round_attempts, lease.attempts) == (2, 0, 3)
        assert (lease.round_started_at, lease.last_delay) == (desk.clock(), None)
        row = desk.row("evt_1")
        assert (row["crashes"], row["reason"], row["finished_at"]) == (0, None, None)
        assert (row["status"], row["lease_owner"], row["sending"]) == ("retrying", "replay", False)
        assert row["available_at"] == desk.clock() + 60

    def test_keeps_the_history_and_numbers_on(self, desk):
        die(desk, "evt_1")
        desk.deliver(*replay(desk))
        assert [(each.number, each.round, each.result) for each in desk.history("evt_1")] == [
            (1, 1, "failed"),
            (2, 2, "delivered"),
        ]
        assert desk.delivery("evt_1").replays == 1
        assert desk.status().balanced

    def test_fences_the_worker_that_held_the_delivery_before_it_died(self, desk):
        desk.enqueue("evt_1")
        old = desk.claim_one()
        desk.fail(old, GiveUp("exhausted"))
        desk.clock.advance(1)
        [lease] = replay(desk)
        assert lease.token > old.token

    def test_takes_the_oldest_first_and_no_more_than_asked(self, desk):
        die(desk, "evt_c", "evt_a")
        desk.enqueue("evt_0")
        die(desk, "evt_b", endpoint="audit")
        desk.fail(desk.claim_one(), GiveUp("exhausted"))
        desk.clock.advance(1)
        assert ids(replay(desk, limit=2)) == ["evt_c", "evt_a"]
        assert ids(replay(desk)) == ["evt_b", "evt_0"], "by the time of death, and not by acceptance"

    def test_leaves_permanent_ones_out_unless_asked(self, desk):
        die(desk, "evt_bad", reason="permanent", category="permanent", code="http_400")
        die(desk, "evt_late")
        assert ids(replay(desk)) == ["evt_late"]
        assert ids(replay(desk, include_permanent=True)) == ["evt_bad"]

    def test_takes_only_what_is_selected_and_dead(self, desk):
        die(desk, "evt_1", "evt_2")
        die(desk, "evt_3", endpoint="audit")
        desk.enqueue("evt_pending")
        assert ids(replay(desk, Selection(endpoint="audit"))) == ["evt_3"]
        assert ids(replay(desk, Selection(ids=("evt_2", "evt_pending")))) == ["evt_2"]

    def test_goes_on_after_the_dead_letter_it_took_last(self, desk):
        die(desk, "evt_1", "evt_2", "evt_3")
        first = desk.replay(limit=1)
        assert first.last.finished_at == first.leases[0].round_started_at - 3
        assert ids(desk.replay(limit=1, after=first.last).leases) == ["evt_2"]
        after_all = desk.replay(limit=5, after=first.last)
        assert ids(after_all.leases) == ["evt_3"]
        assert desk.replay(after=after_all.last) == ([], None)

    def test_does_not_take_again_what_died_since_it_began(self, desk):
        die(desk, "evt_1", "evt_2")
        started_at = desk.clock()
        [lease] = replay(desk, limit=1, died_before=started_at)
        desk.fail(lease, GiveUp("exhausted"))
        assert ids(replay(desk, died_before=started_at)) == ["evt_2"]
        assert desk.delivery("evt_1").replays == 1

    def test_puts_a_dead_letter_that_was_never_tried_back_among_the_pending(self, desk):
        desk.enqueue("evt_1")
        cancel(desk)
        desk.clock.advance(1)
        replay(desk)
        assert desk.delivery("evt_1").status == "pending"

    def test_never_takes_the_dead_letter_that_another_replay_takes_at_the_same_time(
        self, open_desk, store_url
    ):
        desk, other = open_desk(store_url), open_desk(store_url)
        for number in range(60):
            desk.enqueue(f"evt_{number}")
        for lease in desk.claim():
            desk.fail(lease, GiveUp("exhausted"))
        desk.clock.advance(1)

        async def take(store):
            taken = []
            while True:
                replayed = await store.write(
                    operations.replay,
                    Selection(),
                    died_before=desk.clock(),
                    limit=4,
                    owner="replay",
                    now=desk.clock(),
                    lease_seconds=60.0,
                )
                if not replayed.leases:
                    return taken
                taken += ids(replayed.leases)

        async def both():
            return await asyncio.gather(take(desk.store), take(other.store))

        first, second = desk.run(both())
        assert sorted(first + second) == sorted(f"evt_{number}" for number in range(60))
        assert counted(desk, "replay") == 60

    def test_of_a_replay_that_is_lost_is_rescued_like_any_lease(self, desk):
        die(desk, "evt_1")
        replay(desk)
        desk.clock.advance(61)
        assert desk.rescue() == 1
        assert ids(desk.claim()) == ["evt_1"]
        assert desk.status().balanced


class TestCancel:
    def test_gives_up_what_is_unfinished_with_reason_cancelled(self, desk):
        desk.enqueue("evt_pending", "evt_parked")
        desk.fail(desk.claim_one(), desk.park_for(500))
        assert cancel(desk) == 2
        for event_id in ("evt_pending", "evt_parked"):
            row = desk.row(event_id)
            assert (row["status"], row["reason"], row["finished_at"]) == (
                "dead_letter",
                "cancelled",
                desk.clock(),
            )
            assert (row["available_at"], row["next_attempt_at"], row["lease_owner"]) == (None, None, None)
        assert counted(desk, "delivery") == 2
        assert desk.status().balanced

    def test_leaves_alone_what_is_being_sent(self, desk):
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        desk.begin(lease)
        assert cancel(desk) == 0
        assert desk.record(desk.delivered(lease))

    def test_fences_what_waits_for_a_retry_in_some_process(self, desk):
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        decision = desk.retry_in(5)
        desk.fail(lease, decision)
        assert cancel(desk) == 1
        assert desk.begin(desk.counted_on(lease, decision)) == set(), "its worker finds the lease lost"
        assert desk.delivery("evt_1").reason == "cancelled"

    def test_touches_neither_the_final_nor_the_unselected(self, desk):
        die(desk, "evt_dead")
        desk.enqueue("evt_delivered")
        desk.deliver(desk.claim_one())
        desk.enqueue("evt_1")
        desk.enqueue("evt_2", endpoint="audit")
        assert cancel(desk, Selection(endpoint="audit")) == 1
        assert desk.delivery("evt_dead").reason == "exhausted"
        assert (desk.status().delivered, desk.status().pending) == (1, 1)

    def test_takes_the_time_of_acceptance(self, desk):
        desk.enqueue("evt_old")
        desk.clock.advance(10)
        desk.enqueue("evt_new")
        assert cancel(desk, Selection(until=desk.clock())) == 1
        assert desk.delivery("evt_old").reason == "cancelled"


class TestPurge:
    @pytest.mark.parametrize("status", ["dead_letter", "delivered"])
    def test_never_takes_what_is_not_final(self, desk, status):
        desk.enqueue("evt_pending", "evt_parked", "evt_waiting", "evt_replayed")
        leases = {lease.event.id: lease for lease in desk.claim()}
        desk.run(desk.store.release([leases["evt_pending"]]))
        desk.fail(leases["evt_parked"], desk.park_for(500))
        desk.fail(leases["evt_waiting"], desk.retry_in(5))
        desk.fail(leases["evt_replayed"], GiveUp("exhausted"))
        desk.clock.advance(1)
        replay(desk)
        assert purge(desk, status, before=desk.clock() + 1e9) == 0
        assert len(desk.rows(schema.deliveries)) == 4

    def test_removes_the_delivery_its_history_and_its_event(self, desk):
        die(desk, "evt_1")
        assert purge(desk) == 1
        assert [desk.rows(table) for table in (schema.deliveries, schema.attempts, schema.events)] == [[]] * 3
        assert desk.detail("evt_1") is None

    def test_keeps_an_event_that_another_delivery_needs(self, desk):
        die(desk, "evt_1")
        desk.enqueue("evt_1", endpoint="audit")
        assert purge(desk) == 1
        [(delivery, _)] = desk.detail("evt_1").deliveries
        assert delivery.endpoint == "audit"

    def test_is_in_the_ledger_and_in_the_counters_and_lowers_none(self, desk):
        die(desk, "evt_1", "evt_2")
        desk.enqueue("evt_3")
        desk.fold()
        before = desk.rows(schema.rollups)
        assert purge(desk) == 2
        status = desk.status()
        assert (status.accepted, status.purged, status.pending, status.balanced) == (3, 2, 1, True)
        assert counted(desk, "purge") == 2
        after = desk.rows(schema.rollups)
        assert all(row in after for row in before)

    def test_takes_those_that_ended_first_and_no_more_than_asked(self, desk):
        die(desk, "evt_b", "evt_a")
        assert purge(desk, limit=1) == 1
        assert desk.detail("evt_b") is None
        assert purge(desk, before=desk.clock() - 1.5) == 0

    def test_takes_what_ended_at_this_very_moment(self, desk):
        die(desk, "evt_a")
        assert purge(desk, before=desk.row("evt_a")["finished_at"]) == 1

    def test_makes_what_a_late_worker_says_of_no_account(self, desk):
        desk.enqueue("evt_1")
        lost = desk.claim_one()
        desk.clock.advance(61)
        desk.rescue()
        desk.deliver(desk.claim_one())
        purge(desk, "delivered")
        assert desk.record(desk.delivered(lost)) == set()
        assert desk.rows(schema.attempts) == []
