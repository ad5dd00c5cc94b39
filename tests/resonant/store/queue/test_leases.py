"""A worker and its leases."""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import chain

import pytest

from resonant.store import Due, enqueue, schema
from resonant.store.queue.leases import NEW_SECONDS, Turns, claim, due, lease_owners
from support.postgresql import on_postgresql
from support.sqlite import listening

HOUR = 3_600.0


class TestClaim:
    @pytest.mark.parametrize("new", [0, 3])
    def test_by_many_at_once_gives_each_delivery_to_one_of_them(self, open_desk, store_url, new):
        desks = [open_desk(store_url) for _ in range(4)]
        desks[0].enqueue(*(f"evt_{number}" for number in range(100)))
        for desk in desks:
            desk.clock.advance(NEW_SECONDS)
        desks[0].enqueue(*(f"new_{number}" for number in range(100)))

        async def claim_all(owner: int):
            claimed = []
            options = {"owner": f"worker-{owner}", "new": {"orders": new}}
            while leases := (await desks[owner].store.claim_each({"orders": 7}, **options))["orders"]:
                claimed += leases
            return claimed

        async def claim_at_once():
            return chain.from_iterable(await asyncio.gather(*map(claim_all, range(4))))

        claimed = list(desks[0].run(claim_at_once()))
        ids = [lease.delivery_id for lease in claimed]
        assert len(ids) == len(set(ids)) == 200
        owners = {row["id"]: row["lease_owner"] for row in desks[0].rows(schema.deliveries)}
        assert owners == {lease.delivery_id: lease.owner for lease in claimed}

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
        def noted():
            desk.run(desk.store.note_claims())
            return {row["endpoint"]: row["last_claim_at"] for row in desk.rows(schema.claims)}

        start = desk.clock()
        desk.enqueue("evt_1")
        desk.enqueue("evt_3", endpoint="crm")
        assert noted() == {}
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
        desk.enqueue("evt_5", endpoint="crm")
        desk.claim_one(endpoint="crm")
        assert noted()["crm"] == desk.clock()

    @on_postgresql
    def test_does_not_wait_for_open_transactions_of_producers_or_other_claims(self, desk):
        desk.enqueue("evt_1")
        desk.clock.advance(1)
        desk.enqueue("evt_2")

        async def claim_meanwhile():
            now = desk.clock()
            async with desk.store.transaction() as transaction:
                await transaction.run_sync(enqueue, [desk.make("evt_3")], "orders", now=now)
                options = {"owner": "a", "now": now, "lease_seconds": 60.0}
                first = await transaction.run_sync(claim, {"orders": 1}, **options)
                return first["orders"], await desk.store.claim("orders", owner="b", limit=9)

        [first], [second] = desk.run(claim_meanwhile())
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


class TestClaimByType:
    @staticmethod
    def enqueue(desk, **numbers):
        """Store so many events of each type; the ids are the type and a number."""
        for name, number in numbers.items():
            desk.enqueue(*(desk.make(f"{name}_{n}", event_type=name) for n in range(number)))
            desk.clock.advance(1)

    @staticmethod
    def claim(desk, limit, *, after="", leave_out=(), **options):
        """Claim in turn; return the ids of the events, sorted."""
        in_turn = {"orders": Turns(after, leave_out)}
        claiming = desk.store.claim_each({"orders": limit}, owner="worker", in_turn=in_turn, **options)
        return sorted(lease.event.id for lease in desk.run(claiming)["orders"])

    def claim_types(self, desk, limit, **options):
        """Claim in turn; return how many deliveries of each type."""
        return Counter(each.partition("_")[0] for each in self.claim(desk, limit, **options))

    def test_each_type_has_an_equal_part_and_those_with_fewer_leave_theirs_to_others(self, desk):
        self.enqueue(desk, a=50, b=2, c=50)
        assert self.claim_types(desk, 3) == {"a": 1, "b": 1, "c": 1}
        found = self.claim_types(desk, 21)
        assert (found["b"], found.total()) == (1, 21)
        assert min(found["a"], found["c"]) >= 7
        assert self.claim_types(desk, 200) == {"a": 49 - found["a"], "c": 49 - found["c"]}
        assert self.claim_types(desk, 200) == {}

    def test_a_type_gets_the_unused_parts_of_later_types(self, desk):
        self.enqueue(desk, a=50, b=2)
        assert self.claim_types(desk, 20) == {"a": 18, "b": 2}

    def test_types_with_many_share_the_unused_parts_of_others_equally(self, desk):
        self.enqueue(desk, a=50, b=1, c=1, d=1, e=50)
        assert self.claim_types(desk, 23) == {"a": 10, "b": 1, "c": 1, "d": 1, "e": 10}

    def test_without_turns_the_earliest_due_are_claimed(self, desk):
        self.enqueue(desk, a=9, b=9)
        assert {lease.event.type for lease in desk.claim(9)} == {"a"}

    def test_the_earliest_due_of_a_type_come_first(self, desk):
        for n in (0, 1, 2):
            for name in ("a", "b"):
                desk.enqueue(desk.make(f"{name}_{n}", event_type=name))
            desk.clock.advance(1)
        assert self.claim(desk, 4) == ["a_0", "a_1", "b_0", "b_1"]

    @pytest.mark.parametrize(
        ("after", "first"), [("", "ab"), ("a", "bc"), ("b", "cd"), ("bb", "cd"), ("c", "ad"), ("d", "ab")]
    )
    def test_a_claim_continues_after_the_type_that_had_the_last_turn(self, desk, after, first):
        self.enqueue(desk, a=5, b=5, c=5, d=5)
        assert self.claim_types(desk, 2, after=after) == dict.fromkeys(first, 1)

    def test_types_that_are_left_out_are_not_claimed(self, desk):
        self.enqueue(desk, a=5, b=5, c=5)
        assert self.claim_types(desk, 1, leave_out={"a"}) == {"b": 1}
        assert self.claim_types(desk, 100, leave_out={"a", "c", "unknown"}) == {"b": 4}
        assert self.claim_types(desk, 100, leave_out=["a", "c"]) == {}
        assert len(desk.claim()) == 10

    def test_many_types_have_their_turns_in_several_claims(self, desk):
        desk.enqueue(*(desk.make(f"t{n:02}_{m}", event_type=f"t{n:02}") for n in range(60) for m in range(3)))
        first = self.claim_types(desk, 1_000)
        assert first == {f"t{n:02}": 3 for n in range(50)}
        assert self.claim_types(desk, 1_000, after="t49") == {f"t{n:02}": 3 for n in range(50, 60)}

    def test_new_events_of_a_type_have_their_part_before_its_backlog(self, desk):
        self.enqueue(desk, a=20, b=20)
        desk.clock.advance(HOUR)
        desk.enqueue(
            *(desk.make(f"{name}_new-{n}", event_type=name) for name in ("a", "c") for n in range(9))
        )
        claimed = self.claim(desk, 12, new={"orders": 6})
        assert sum(each.startswith("a_new") for each in claimed) == 2
        assert Counter(each[0] for each in claimed) == {"a": 4, "b": 4, "c": 4}

    def test_claims_of_one_serve_both_the_backlog_and_the_new_events_of_each_type(self, desk):
        self.enqueue(desk, a=20, b=20)
        desk.clock.advance(HOUR)
        desk.enqueue(*(desk.make(f"{name}_new-{n}", event_type=name) for name in "ab" for n in range(20)))
        found = Counter()
        for after in "ab" * 10:
            desk.clock.advance(1)
            [claimed] = self.claim(desk, 1, after=after, new={"orders": 0.5})
            found[claimed.rstrip("0123456789")] += 1
        assert found.keys() == {"a_", "b_", "a_new-", "b_new-"}

    def test_other_endpoints_of_the_same_claim_are_claimed_as_usual(self, desk):
        self.enqueue(desk, a=9, b=9)
        desk.enqueue(*(f"evt_{n}" for n in range(9)), endpoint="billing")
        desk.clock.advance(1)
        desk.enqueue(desk.make("other", event_type="z"), endpoint="billing")
        limits, in_turn = {"orders": 4, "billing": 9}, {"orders": Turns("", ())}
        found = desk.run(desk.store.claim_each(limits, owner="worker", in_turn=in_turn))
        assert Counter(lease.event.type for lease in found["orders"]) == {"a": 2, "b": 2}
        assert {lease.event.type for lease in found["billing"]} == {"order.paid"}

    def test_nothing_before_a_known_due_time_is_searched_for(self, desk):
        self.enqueue(desk, a=1)
        bounds = {"orders": desk.clock() + 1}
        desk.clock.advance(2)
        self.enqueue(desk, b=1)
        assert self.claim(desk, 9, bounds=bounds) == ["b_0"]

    def test_as_many_as_fit_are_claimed(self, desk):
        desk.enqueue(
            *(desk.make(f"{name}_{n}", "x" * 98, event_type=name) for name in "ab" for n in range(4))
        )
        assert len(self.claim(desk, 8, most_bytes=350)) == 3
        assert len(desk.claim()) == 5

    @on_postgresql
    def test_two_claims_at_once_share_the_types(self, desk):
        self.enqueue(desk, a=4, b=4)

        async def claim_meanwhile():
            options = {"in_turn": {"orders": Turns("", ())}}
            async with desk.store.transaction() as transaction:
                held = {"owner": "one", "now": desk.clock(), "lease_seconds": 60.0, **options}
                first = await transaction.run_sync(claim, {"orders": 4}, **held)
                second = await desk.store.claim_each({"orders": 100}, owner="two", **options)
                return first["orders"], second["orders"]

        for leases in desk.run(claim_meanwhile()):
            assert Counter(lease.event.type for lease in leases) == {"a": 2, "b": 2}


class TestDue:
    def test_tells_when_the_earliest_delivery_of_each_endpoint_may_be_taken(self, desk):
        start = desk.clock()
        desk.enqueue("evt_1", endpoint="orders")
        desk.clock.advance(5)
        desk.enqueue("evt_2", "evt_3", endpoint="audit")
        assert set(desk.read(due)) == {Due("orders", start), Due("audit", start + 5)}
        assert desk.read(due, "audit") == [Due("audit", start + 5)]
        assert desk.read(due, "nobody") == []

    def test_a_delivery_is_due_after_its_lease_or_parking_unless_it_is_final(self, desk):
        desk.enqueue("evt_1")
        lease = desk.claim_one()
        assert desk.read(due) == [Due("orders", desk.clock() + 60)]
        desk.fail(lease, desk.park_for(500))
        assert desk.read(due) == [Due("orders", desk.clock() + 500)]
        desk.clock.advance(500)
        desk.deliver(desk.claim_one())
        assert desk.read(due) == []

    def test_the_end_of_the_last_lease_and_the_owners_of_leases_are_known(self, desk):
        assert desk.run(desk.store.latest_lease_end()) is None
        desk.enqueue("evt_1", endpoint="orders")
        desk.enqueue("evt_2", "evt_3", endpoint="audit")
        desk.claim_one(owner="a")
        desk.clock.advance(5)
        desk.claim(2, owner="b", endpoint="audit")
        assert desk.run(desk.store.latest_lease_end()) == desk.clock() + 60
        assert desk.run(desk.store.latest_lease_end("orders")) == desk.clock() + 55
        assert sorted(desk.read(lease_owners)) == ["a", "b"]

    def test_of_large_events_as_many_are_leased_as_fit_and_the_others_stay_due(self, desk):
        for number in range(4):
            desk.enqueue(desk.make(f"evt_{number}", "x" * 98))
            desk.clock.advance(1)

        def claim(most_bytes):
            options = {"owner": "worker", "limit": 10, "most_bytes": most_bytes}
            return [each.event.id for each in desk.run(desk.store.claim("orders", **options))]

        assert claim(most_bytes=250) == ["evt_0", "evt_1"]
        assert desk.row("evt_2")["lease_owner"] is None
        assert claim(most_bytes=0) == ["evt_2"], "one in any case"
        assert claim(most_bytes=100) == ["evt_3"]
        assert claim(most_bytes=100) == []


def test_operations_on_no_deliveries_or_on_ones_that_do_not_exist_change_nothing(desk):
    desk.enqueue("evt_1")
    nowhere = replace(desk.claim_one(), delivery_id=987_654)
    for leases in ([], [nowhere]):
        assert desk.begin(*leases) == set()
        assert desk.record(*map(desk.delivered, leases)) == set()
        desk.run(desk.store.release(leases))
    assert desk.rescue() == desk.rescue_from() == 0


def test_only_the_named_leases_of_an_owner_are_renewed(desk):
    desk.enqueue("evt_1", "evt_2")
    known, unheard_of = desk.claim(2)
    desk.clock.advance(30)
    assert desk.run(desk.store.renew("worker", [known.delivery_id])) == [known.delivery_id]
    desk.clock.advance(31)
    assert desk.rescue() == 1
    assert desk.run(desk.store.begin([known, unheard_of])) == {known.key}


def test_a_release_of_the_unknown_leases_of_an_owner_includes_its_newer_lease_on_a_known_delivery(desk):
    desk.enqueue("evt_1", "evt_2")
    lost, kept = desk.claim(2)
    desk.run(desk.store.release([lost]))
    unknown = desk.claim_one()
    assert unknown.delivery_id == lost.delivery_id
    assert desk.run(desk.store.release_all("worker", besides={lost.key, kept.key})) == 1
    assert desk.begin(unknown, kept) == {kept.key}


def test_no_statement_binds_more_values_for_more_deliveries(desk):
    """A statement can bind about 32,000."""

    def most_values(number):
        bound = []

        def note(_connection, _cursor, _statement, parameters, _context, is_many):
            bound.append(len(parameters[0] if is_many else parameters))

        events = [f"evt_{number}_{each}" for each in range(number)]
        with listening("before_cursor_execute", note):
            assert desk.enqueue(*events).accepted == number
            assert desk.enqueue(*events).known == number
            assert len(desk.begin(*desk.claim(number))) == number
            assert len(desk.run(desk.store.renew("worker"))) == number
            assert desk.run(desk.store.release_all("worker")) == number
            assert len(desk.deliver(*desk.claim(number))) == number
        return max(bound)

    assert most_values(600) == most_values(1_200)
    status = desk.status()
    assert (status.delivered, status.in_flight, status.balanced) == (1_800, 0, True)
