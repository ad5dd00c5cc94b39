"""What a worker does to its leases."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from resonant.delivery.retry import GiveUp
from resonant.store import Due, schema
from resonant.store.queue.leases import lease_owners
from support.store_rows import snapshot


class TestClaim:
    def test_gives_a_lease_with_what_the_next_attempt_needs(self, desk):
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

    def test_takes_what_is_longest_due_first(self, desk):
        for event_id in ("evt_c", "evt_a", "evt_b"):
            desk.enqueue(event_id)
            desk.clock.advance(1)
        desk.fail(desk.claim_one(), desk.park_for(1))
        desk.clock.advance(1)
        assert [lease.event.id for lease in desk.claim(2)] == ["evt_a", "evt_b"]
        assert [lease.event.id for lease in desk.claim(2)] == ["evt_c"]

    def test_takes_no_more_than_asked_and_nothing_twice(self, desk):
        desk.enqueue(*(f"evt_{number}" for number in range(5)))
        first, second, third = (desk.claim(2) for _ in range(3))
        assert [len(first), len(second), len(third)] == [2, 2, 1]
        assert len({lease.event.id for lease in first + second + third}) == 5

    def test_takes_only_from_the_endpoint_that_was_named(self, desk):
        desk.enqueue("evt_1", endpoint="orders")
        desk.enqueue("evt_2", endpoint="audit")
        assert [lease.event.id for lease in desk.claim(endpoint="audit")] == ["evt_2"]
        assert desk.claim(endpoint="nobody") == []

    def test_takes_only_what_is_due(self, desk):
        desk.enqueue("evt_1")
        desk.fail(desk.claim_one(), desk.park_for(100))
        desk.clock.advance(99.5)
        assert desk.claim() == []
        desk.clock.advance(0.5)
        assert [lease.event.id for lease in desk.claim()] == ["evt_1"]

    def test_counts_the_token_on_whenever_the_lease_changes_hands(self, desk):
        desk.enqueue("evt_1")
        tokens = []
        for _ in range(3):
            lease = desk.claim_one()
            tokens.append(lease.token)
            desk.run(desk.store.release([lease]))
        lease = desk.claim_one()
        tokens.append(lease.token)
        desk.clock.advance(100)
        desk.rescue()
        tokens.append(desk.claim_one().token)
        assert tokens == sorted(set(tokens))

    def test_does_not_take_an_expired_lease_by_itself(self, desk):
        desk.enqueue("evt_1")
        desk.claim_one()
        desk.clock.advance(1_000)
        assert desk.claim() == [], "what a crash costs is decided by the rescue alone"

    def test_by_many_at_once_gives_each_delivery_to_one_of_them(self, open_desk, store_url):
        desks = [open_desk(store_url) for _ in range(4)]
        desks[0].enqueue(*(f"evt_{number}" for number in range(400)))

        async def claim_all(owner: int):
            claimed = []
            while leases := await desks[owner].store.claim("orders", owner=f"worker-{owner}", limit=7):
                claimed += leases
            return claimed

        async def claim_at_once():
            return await asyncio.gather(*(claim_all(owner) for owner in range(4)))

        by_owner = desks[0].run(claim_at_once())
        ids = [lease.delivery_id for leases in by_owner for lease in leases]
        assert len(ids) == len(set(ids)) == 400
        owners = {row["id"]: row["lease_owner"] for row in desks[0].rows(schema.deliveries)}
        assert all(owners[lease.delivery_id] == lease.owner for leases in by_owner for lease in leases)

    def test_notes_when_an_endpoint_was_last_claimed_from(self, desk):
        start = desk.clock()
        desk.enqueue("evt_1", "evt_2")
        desk.enqueue("evt_3", endpoint="crm")

        def noted():
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
                async with asyncio.timeout(5):
                    return await theirs.store.claim("orders", owner="b", limit=1)

        assert [lease.event.id for lease in ours.run(claim_within())] == ["evt_1"]
        assert [row["last_claim_at"] for row in ours.rows(schema.claims)] == [ours.clock()]

    def test_passes_over_rows_that_another_worker_is_claiming(self, open_desk, postgresql_url):
        ours, theirs = open_desk(postgresql_url), open_desk(postgresql_url)
        ours.enqueue("evt_1")
        ours.clock.advance(1)
        ours.enqueue("evt_2")

        async def claim_within_the_claim_of_another():
            from resonant.store.queue.leases import claim

            options = {"now": ours.clock(), "lease_seconds": 60.0}
            async with ours.store.transaction() as transaction:
                first = await transaction.run_sync(claim, "orders", owner="a", limit=1, **options)
                async with asyncio.timeout(5):
                    return first, await theirs.store.claim("orders", owner="b", limit=1)

        [first], [second] = ours.run(claim_within_the_claim_of_another())
        assert (first.event.id, second.event.id) == ("evt_1", "evt_2")


class TestDue:
    def test_tells_when_the_earliest_delivery_of_each_endpoint_may_be_taken(self, desk):
        start = desk.clock()
        desk.enqueue("evt_1", endpoint="orders")
        desk.clock.advance(5)
        desk.enqueue("evt_2", "evt_3", endpoint="audit")
        assert set(desk.run(desk.store.due())) == {Due("orders", start), Due("audit", start + 5)}
        assert desk.run(desk.store.due("audit")) == [Due("audit", start + 5)]
        assert desk.run(desk.store.due("nobody")) == []

    def test_counts_a_lease_until_its_end_and_parking_until_its_time(self, desk):
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        assert desk.run(desk.store.due()) == [Due("orders", desk.clock() + 60)]
        desk.fail(lease, desk.park_for(500))
        assert desk.run(desk.store.due()) == [Due("orders", desk.clock() + 500)]

    def test_leaves_out_endpoints_where_all_is_final(self, desk):
        desk.enqueue("evt_1", "evt_2")
        first, second = desk.claim()
        desk.deliver(first)
        desk.fail(second, GiveUp("permanent"))
        assert desk.run(desk.store.due()) == []

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


class TestBegin:
    def test_notes_the_first_attempt_and_that_a_send_is_under_way(self, desk):
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        assert desk.begin(lease) == {lease.key}
        row = desk.row("evt_1")
        assert row["sending"] is True
        assert row["first_attempt_at"] == desk.clock()

    def test_keeps_the_time_of_the_first_attempt(self, desk):
        desk.enqueue("evt_1")
        started_at = desk.clock()
        lease, decision = desk.claim_one(), desk.retry_in(2)
        desk.fail(lease, decision)
        desk.clock.advance(2)
        desk.begin(desk.counted_on(lease, decision))
        assert desk.delivery("evt_1").first_attempt_at == started_at

    def test_refuses_who_holds_the_lease_no_more(self, desk):
        desk.enqueue("evt_1", "evt_2")
        lost, kept = desk.claim()
        desk.run(desk.store.release([lost]))
        assert desk.begin(lost, kept) == {kept.key}
        successor = desk.claim_one(owner="successor")
        before = snapshot(desk)
        assert desk.begin(lost) == set()
        assert snapshot(desk) == before
        assert desk.begin(successor) == {successor.key}


class TestLease:
    def test_that_is_past_its_end_is_honoured_while_nobody_took_it(self, desk):
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        desk.clock.advance(1_000)
        assert desk.deliver(lease) == {lease.key}
        assert desk.delivery("evt_1").status == "delivered"

    def test_is_put_off_by_its_owner_alone(self, desk):
        desk.enqueue("evt_1", "evt_2", "evt_3")
        desk.claim(2, owner="a")
        desk.claim(1, owner="b")
        desk.clock.advance(50)
        assert desk.run(desk.store.renew("a")) == 2
        assert desk.run(desk.store.renew("nobody")) == 0
        desk.clock.advance(20)
        assert desk.rescue() == 1
        assert desk.read(lease_owners) == ["a"]

    def test_is_put_off_while_its_retry_is_waited_for(self, desk):
        desk.enqueue("evt_1")
        desk.fail(desk.claim_one(), desk.retry_in(25))
        desk.clock.advance(50)
        assert desk.run(desk.store.renew("worker")) == 1
        assert desk.delivery("evt_1").lease_until == desk.clock() + 60
        assert desk.delivery("evt_1").next_attempt_at == desk.clock() - 25

    def test_handed_back_before_the_first_attempt_is_due_at_once_and_uncharged(self, desk):
        desk.enqueue("evt_1")
        before = desk.row("evt_1")
        lease = desk.claim_one()
        desk.run(desk.store.release([lease]))
        assert desk.row("evt_1") == before | {"lease_token": 1}
        assert desk.history("evt_1") == ()
        assert desk.claim_one().event.id == "evt_1"

    def test_handed_back_after_a_send_began_is_uncharged(self, desk):
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        desk.begin(lease)
        desk.run(desk.store.release([lease]))
        row = desk.row("evt_1")
        assert (row["attempts"], row["crashes"], row["sending"]) == (0, 0, False)

    def test_handed_back_while_its_retry_is_waited_for_is_due_when_that_was(self, desk):
        desk.enqueue("evt_1")
        lease, decision = desk.claim_one(), desk.retry_in(20)
        desk.fail(lease, decision)
        desk.run(desk.store.release([desk.counted_on(lease, decision)]))
        row = desk.row("evt_1")
        assert (row["status"], row["lease_owner"]) == ("retrying", None)
        assert row["available_at"] == decision.next_attempt_at

    def test_of_everything_an_owner_holds_is_handed_back_at_once(self, desk):
        desk.enqueue("evt_1", "evt_2", "evt_3")
        waiting, _ = desk.claim(2, owner="a")
        decision = desk.retry_in(20)
        desk.fail(waiting, decision)
        desk.claim(1, owner="b")
        assert desk.run(desk.store.release_all("a")) == 2
        assert desk.run(desk.store.release_all("a")) == 0
        assert desk.read(lease_owners) == ["b"]
        assert desk.row(waiting.event.id)["available_at"] == decision.next_attempt_at
        assert len(desk.claim()) == 1
        assert desk.status().balanced

    def test_ids_that_do_not_exist_are_no_error(self, desk):
        desk.enqueue("evt_1")
        nowhere = replace(desk.claim_one(), delivery_id=987_654)
        assert desk.begin(nowhere) == set()
        assert desk.record(desk.delivered(nowhere)) == set()
        desk.run(desk.store.release([nowhere]))

    def test_nothing_to_do_is_done(self, desk):
        assert desk.begin() == desk.record() == set()
        desk.run(desk.store.release([]))
        assert desk.rescue() == desk.rescue(owners=[]) == 0


def test_of_an_owners_leases_only_those_that_it_knows_of_are_renewed(desk):
    desk.enqueue("evt_1", "evt_2")
    known, unheard_of = desk.claim(2)
    desk.clock.advance(30)
    assert desk.run(desk.store.renew("worker", [known.delivery_id])) == 1
    desk.clock.advance(31)
    assert desk.rescue() == 1
    assert desk.run(desk.store.begin([known, unheard_of])) == {known.key}
