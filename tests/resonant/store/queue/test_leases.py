"""A worker and its leases."""

import asyncio
from dataclasses import replace

import pytest

from resonant.delivery.retry import GiveUp
from resonant.store import Due, schema
from resonant.store.queue.leases import NEW_SECONDS, due, lease_owners

HOUR = 3_600.0


class TestClaim:
    def test_gives_a_lease_with_the_facts_for_the_next_attempt(self, desk):
        desk.enqueue(desk.make("evt_1", {"a": 1}))
        lease = desk.claim_one(owner="run-1")
        assert lease.event == desk.detail("evt_1").event
        assert (lease.endpoint, lease.owner, lease.token) == ("orders", "run-1", 1)
        assert (lease.attempts, lease.round, lease.round_attempts, lease.last_delay) == (0, 1, 0, None)
        assert lease.accepted_at == lease.round_started_at == desk.clock()
        delivery = desk.delivery("evt_1")
        assert (delivery.leased_by, delivery.lease_until) == (
            "run-1",
            desk.clock() + desk.store.lease_seconds,
        )
        assert delivery.status == "pending", "a lease is no status"

    @pytest.mark.parametrize("new", [0, 3])
    def test_by_many_at_once_gives_each_delivery_to_one_of_them(self, open_desk, store_url, new):
        desks = [open_desk(store_url) for _ in range(4)]
        desks[0].enqueue(*(f"evt_{number}" for number in range(200)))
        for desk in desks:
            desk.clock.advance(NEW_SECONDS)
        desks[0].enqueue(*(f"new_{number}" for number in range(200)))

        async def claim_all(owner: int):
            claimed = []
            options = {"owner": f"worker-{owner}", "new": {"orders": new}}
            while leases := (await desks[owner].store.claim_each({"orders": 7}, **options))["orders"]:
                claimed += leases
            return claimed

        async def claim_at_once():
            return await asyncio.gather(*(claim_all(owner) for owner in range(4)))

        by_owner = desks[0].run(claim_at_once())
        ids = [lease.delivery_id for leases in by_owner for lease in leases]
        assert len(ids) == len(set(ids)) == 400
        owners = {row["id"]: row["lease_owner"] for row in desks[0].rows(schema.deliveries)}
        assert all(owners[lease.delivery_id] == lease.owner for leases in by_owner for lease in leases)

    @pytest.mark.parametrize("begin_up_to", [1, 2])
    def test_begins_the_sends_of_a_few_deliveries(self, desk, begin_up_to):
        desk.enqueue("evt_1", "evt_2")
        claiming = desk.store.claim_each({"orders": 9}, owner="ann", begin_up_to=begin_up_to)
        leases = desk.run(claiming)["orders"]
        begun_at = desk.clock() if begin_up_to == 2 else None
        assert [lease.begun_at for lease in leases] == [begun_at] * 2
        for row in desk.rows(schema.deliveries):
            assert (row["sending"], row["first_attempt_at"]) == (begin_up_to == 2, begun_at)
        desk.rescue_from("ann")
        assert [lease.crashes for lease in desk.claim()] == [int(begin_up_to == 2)] * 2

    def test_notes_when_an_endpoint_was_last_claimed_from(self, desk):
        start = desk.clock()
        desk.enqueue("evt_1", "evt_2")
        desk.enqueue("evt_3", endpoint="crm")

        def noted():
            desk.run(desk.store.note_claims())
            return {row["endpoint"]: row["last_claim_at"] for row in desk.rows(schema.claims)}

        assert noted() == {}
        desk.claim(1)
        desk.clock.advance(7.5)
        desk.claim(1)
        assert noted() == {"orders": start + 7.5}
        desk.clock.advance(10)
        assert desk.claim() == []
        assert noted()["orders"] == start + 7.5, "nothing was claimed"
        desk.clock.advance(-3600)
        desk.enqueue("evt_4")
        assert desk.claim_one().event.id == "evt_4"
        assert noted()["orders"] == start + 7.5, "a clock that was put back"

    def test_does_not_wait_for_a_producer_whose_transaction_is_open(self, open_desk, postgresql_url):
        from resonant.store import enqueue

        ours, theirs = open_desk(postgresql_url), open_desk(postgresql_url)
        ours.enqueue("evt_1")

        async def claim_within():
            async with ours.store.transaction() as transaction:
                await transaction.run_sync(enqueue, [ours.make("evt_2")], "orders", now=ours.clock())
                async with asyncio.timeout(15):  # a wait for a lock ends after 20
                    return await theirs.store.claim("orders", owner="b", limit=1)

        assert [lease.event.id for lease in ours.run(claim_within())] == ["evt_1"]

    def test_passes_over_rows_that_another_worker_is_claiming(self, open_desk, postgresql_url):
        ours, theirs = open_desk(postgresql_url), open_desk(postgresql_url)
        ours.enqueue("evt_1")
        ours.clock.advance(1)
        ours.enqueue("evt_2")

        async def claim_within_the_claim_of_another():
            from resonant.store.queue.leases import claim

            options = {"now": ours.clock(), "lease_seconds": 60.0}
            async with ours.store.transaction() as transaction:
                first = await transaction.run_sync(claim, {"orders": 1}, owner="a", **options)
                async with asyncio.timeout(15):  # a wait for a lock ends after 20
                    return first["orders"], await theirs.store.claim("orders", owner="b", limit=1)

        [first], [second] = ours.run(claim_within_the_claim_of_another())
        assert (first.event.id, second.event.id) == ("evt_1", "evt_2")


class TestClaimBehindABacklog:
    @staticmethod
    def claim(desk, limit, *, new, **options):
        claiming = desk.store.claim_each({"orders": limit}, owner="worker", new={"orders": new}, **options)
        return [lease.event.id for lease in desk.run(claiming)["orders"]]

    def test_alternates_new_events_the_latest_first_with_the_longest_due(self, desk):
        for number in range(6):
            desk.enqueue(f"old_{number}")
            desk.clock.advance(1)
        desk.clock.advance(NEW_SECONDS)
        for number in range(6):
            desk.enqueue(f"new_{number}")
            desk.clock.advance(1)
        assert self.claim(desk, 4, new=2) == ["new_4", "old_0", "new_5", "old_1"]
        assert self.claim(desk, 5, new=4) == ["new_0", "old_2", "new_1", "new_2", "new_3"]
        desk.enqueue("new_6")
        assert self.claim(desk, 4, new=2) == ["new_6", "old_3", "old_4", "old_5"], "what new ones leave"

    def test_keeps_the_order_until_the_earliest_is_ten_seconds_old(self, desk):
        for number in range(6):
            desk.enqueue(f"evt_{number}")
            desk.clock.advance(1.5)
        assert self.claim(desk, 2, new=1) == ["evt_0", "evt_1"]
        desk.clock.advance(5)
        assert self.claim(desk, 2, new=1) == ["evt_5", "evt_2"]

    def test_finds_new_events_among_retries_and_replays_of_old_ones(self, desk):
        desk.bury("dead_1", "dead_2")
        desk.enqueue("old", *(f"old_{number}" for number in range(50)))
        desk.clock.advance(HOUR)
        longest_due, *others = desk.claim()
        desk.run(desk.store.release([longest_due]))
        for lease in others:
            desk.fail(lease, desk.park_for(60))
        desk.enqueue("new_1", "new_2")
        desk.clock.advance(60)
        desk.run(desk.store.release(desk.replay().leases))
        assert sorted(self.claim(desk, 4, new=2)[::2]) == ["new_1", "new_2"]

    def test_serves_both_if_only_some_bodies_fit(self, desk):
        desk.enqueue(*(desk.make(f"old_{number}", "x" * 98) for number in range(4)))
        desk.clock.advance(HOUR)
        desk.enqueue(*(desk.make(f"new_{number}", "x" * 98) for number in range(4)))
        assert self.claim(desk, 8, new=4, most_bytes=250) == ["new_0", "old_0"]


class TestDue:
    def test_tells_when_the_earliest_delivery_of_each_endpoint_may_be_taken(self, desk):
        start = desk.clock()
        desk.enqueue("evt_1", endpoint="orders")
        desk.clock.advance(5)
        desk.enqueue("evt_2", "evt_3", endpoint="audit")
        assert set(desk.read(due)) == {Due("orders", start), Due("audit", start + 5)}
        assert desk.read(due, "audit") == [Due("audit", start + 5)]
        assert desk.read(due, "nobody") == []

    def test_counts_a_lease_until_its_end_and_parking_until_its_time(self, desk):
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        assert desk.read(due) == [Due("orders", desk.clock() + 60)]
        desk.fail(lease, desk.park_for(500))
        assert desk.read(due) == [Due("orders", desk.clock() + 500)]

    def test_leaves_out_endpoints_where_all_is_final(self, desk):
        desk.enqueue("evt_1", "evt_2")
        first, second = desk.claim()
        desk.deliver(first)
        desk.fail(second, GiveUp("permanent"))
        assert desk.read(due) == []

    def test_the_end_of_the_last_lease_is_known(self, desk):
        assert desk.run(desk.store.latest_lease_end()) is None
        desk.enqueue("evt_1", endpoint="orders")
        desk.enqueue("evt_2", endpoint="audit")
        desk.claim_one()
        desk.clock.advance(5)
        desk.claim_one(endpoint="audit")
        assert desk.run(desk.store.latest_lease_end()) == desk.clock() + 60
        assert desk.run(desk.store.latest_lease_end("orders")) == desk.clock() + 55

    def test_of_large_events_as_many_are_leased_as_fit_and_the_others_stay_due(self, desk):
        for number in range(4):
            desk.enqueue(desk.make(f"evt_{number}", "x" * 98))
            desk.clock.advance(1)

        def claim(most_bytes):
            options = {"owner": "worker", "limit": 10, "most_bytes": most_bytes}
            return [each.event.id for each in desk.run(desk.store.claim("orders", **options))]

        assert claim(most_bytes=250) == ["evt_0", "evt_1"]
        assert desk.row("evt_2")["lease_owner"] is None
        assert desk.row("evt_2")["available_at"] < desk.clock()
        assert claim(most_bytes=0) == ["evt_2"], "one in any case"
        assert claim(most_bytes=100) == ["evt_3"]
        assert claim(most_bytes=100) == []

    def test_the_owners_of_leases_are_known(self, desk):
        desk.enqueue("evt_1", "evt_2", "evt_3")
        desk.claim(2, owner="a")
        desk.claim(1, owner="b")
        assert sorted(desk.read(lease_owners)) == ["a", "b"]


class TestLease:
    @pytest.mark.parametrize("begins", [False, True])
    def test_handed_back_before_an_attempt_is_due_at_once_and_uncharged(self, desk, begins):
        desk.enqueue("evt_1")
        before = desk.row("evt_1")
        lease = desk.claim_one()
        if begins:
            desk.begin(lease)
        desk.run(desk.store.release([lease]))
        assert desk.row("evt_1") == before | {"lease_token": 1}
        assert desk.history("evt_1") == ()

    def test_ids_that_do_not_exist_are_no_error(self, desk):
        desk.enqueue("evt_1")
        nowhere = replace(desk.claim_one(), delivery_id=987_654)
        assert desk.begin(nowhere) == set()
        assert desk.record(desk.delivered(nowhere)) == set()
        desk.run(desk.store.release([nowhere]))

    def test_operations_without_deliveries_change_nothing(self, desk):
        assert desk.begin() == desk.record() == set()
        desk.run(desk.store.release([]))
        assert desk.rescue() == desk.rescue_from() == 0


def test_only_the_named_leases_of_an_owner_are_renewed(desk):
    desk.enqueue("evt_1", "evt_2")
    known, unheard_of = desk.claim(2)
    desk.clock.advance(30)
    assert desk.run(desk.store.renew("worker", [known.delivery_id])) == [known.delivery_id]
    desk.clock.advance(31)
    assert desk.rescue() == 1
    assert desk.run(desk.store.begin([known, unheard_of])) == {known.key}


@pytest.mark.alone  # a statement for 33,000 leases must end before its timeout
@pytest.mark.slow
def test_a_batch_larger_than_a_statement_can_name_goes_through_every_operation(desk):
    events = [f"evt_{number}" for number in range(33_000)]
    assert desk.enqueue(*events).accepted == 33_000
    assert desk.enqueue(*events).known == 33_000
    leases = desk.claim(40_000)
    assert len(leases) == 33_000
    assert len(desk.begin(*leases)) == 33_000
    assert len(desk.run(desk.store.renew("worker"))) == 33_000
    assert desk.run(desk.store.release_all("worker")) == 33_000
    status = desk.status()
    assert (status.pending, status.in_flight, status.balanced) == (33_000, 0, True)
