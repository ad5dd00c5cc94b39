"""The event types of an endpoint's due deliveries."""

import pytest
from sqlalchemy import update

from resonant.store import schema
from resonant.store.queue.due_types import due_types


def types_of(desk, endpoint="orders", *, after="", most=100):
    return desk.read(due_types, endpoint, after=after, most=most, now=desk.clock())


def enqueue(desk, *types, endpoint="orders"):
    """Store an event of each type."""
    for event_type in types:
        number = len(desk.rows(schema.events))
        desk.enqueue(desk.make(f"evt_{number}", event_type=event_type), endpoint=endpoint)


def test_each_type_is_found_once_however_many_are_due(desk):
    assert types_of(desk) == []
    enqueue(desk, "b", "a", "c", "a", "b", "b")
    enqueue(desk, "elsewhere", endpoint="billing")
    assert types_of(desk) == ["a", "b", "c"]
    assert types_of(desk, "billing") == ["elsewhere"]


def test_only_types_of_due_deliveries_are_found_also_behind_others(desk):
    enqueue(desk, "a", "b", "c", "d", "e")
    leases = {lease.event.type: lease for lease in desk.claim()}
    desk.deliver(leases["a"])
    desk.fail(leases["b"], desk.park_for(100))
    desk.run(desk.store.release([leases["c"], leases["e"]]))
    assert types_of(desk) == ["c", "e"], "one was delivered, one is parked, and one is leased"
    desk.clock.advance(100)
    assert {"b", "c", "e"} <= set(types_of(desk))


def test_a_type_is_found_if_any_of_its_deliveries_is_due(desk):
    enqueue(desk, "a", "a", "a")
    parked, _leased = desk.claim(2)
    enqueue(desk, "b")
    desk.fail(parked, desk.park_for(100))
    assert types_of(desk) == ["a", "b"]


@pytest.mark.parametrize(
    ("after", "found"),
    [("", "abcd"), ("a", "bcda"), ("b", "cdab"), ("bb", "cdab"), ("d", "abcd"), ("z", "abcd")],
)
def test_they_begin_after_a_type_and_continue_with_the_first(desk, after, found):
    enqueue(desk, *"dbca")
    assert types_of(desk, after=after) == list(found)
    assert types_of(desk, after=after, most=3) == list(found[:3])
    assert types_of(desk, after=after, most=1) == list(found[:1])


def test_types_without_due_deliveries_are_skipped(desk):
    desk.enqueue(*(desk.make(f"evt_{n}", event_type=f"type-{n:04}") for n in range(1_010)))
    first = schema.deliveries.c.event_type < "type-0500"
    desk.execute(update(schema.deliveries).where(first).values(available_at=desk.clock() + 100))
    assert types_of(desk) == [f"type-{n:04}" for n in range(500, 600)]
    assert len(types_of(desk, most=2_000)) == 510
    assert types_of(desk, after="type-1008", most=2) == ["type-1009", "type-0500"]


def test_types_with_any_characters_are_found(desk):
    names = ["B", "Zoë", "a", "a b", "a-b", "a.b", "b", "zoe", "ÿ", "😀"]
    enqueue(desk, *names)
    order = types_of(desk)
    assert sorted(order) == sorted(names)
    for n, name in enumerate(order, 1):
        assert types_of(desk, after=name) == order[n:] + order[:n], name
