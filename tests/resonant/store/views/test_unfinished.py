"""Listing unfinished deliveries, longest due first over all endpoints, in pages; and grouping them."""

import pytest

from resonant.delivery.retry import GiveUp
from resonant.store.views import unfinished
from resonant.store.views.selection import Selection
from resonant.store.views.unfinished import count_unfinished, each_unfinished, group_unfinished

EVERYTHING = Selection()


def listed(desk, selection=EVERYTHING, **options):
    return desk.read(lambda connection: list(each_unfinished(connection, selection, **options)))


def ids(rows):
    return [row.delivery.event_id for row in rows]


@pytest.fixture
def waiting(desk):
    """One of each state for one endpoint, one waiting delivery for another, and two final ones."""
    desk.enqueue("evt_parked", "evt_failed", "evt_delivered", "evt_in_flight")
    leases = {lease.event.id: lease for lease in desk.claim(4)}
    desk.fail(leases["evt_parked"], desk.park_for(300), code="http_503", excerpt="back soon")
    desk.fail(leases["evt_failed"], GiveUp("permanent"))
    desk.deliver(leases["evt_delivered"])
    desk.begin(leases["evt_in_flight"])
    desk.clock.advance(1)
    desk.enqueue("evt_crm", endpoint="crm")
    desk.clock.advance(1)
    desk.enqueue("evt_due")
    return desk


def test_the_longest_due_is_first_over_all_endpoints(waiting):
    rows = listed(waiting)

    assert ids(rows) == ["evt_crm", "evt_due", "evt_in_flight", "evt_parked"]
    assert [row.state(waiting.clock()) for row in rows] == ["due", "due", "in_flight", "parked"]
    assert rows[-1].answered.answer == "back soon"
    assert rows[2].state(waiting.clock() + 100) == "due", "its lease ran out"


def test_filters_select_unfinished_deliveries_in_the_store(waiting):
    for selection, options, found in (
        ({"endpoint": "crm"}, {}, ["evt_crm"]),
        ({"endpoint": "nobody"}, {}, []),
        ({"code": "http_503"}, {}, ["evt_parked"]),
        ({"text": "answered 503"}, {}, ["evt_parked"]),
        ({}, {"status": "retrying"}, ["evt_parked"]),
        ({}, {"status": "pending"}, ["evt_crm", "evt_due", "evt_in_flight"]),
    ):
        assert ids(listed(waiting, Selection(**selection), **options)) == found, (selection, options)


@pytest.mark.parametrize("page", [1, 3, 500])
def test_pages_put_together_are_the_whole_list(desk, monkeypatch, page):
    monkeypatch.setattr(unfinished, "_PAGE", page)
    for number in range(4):
        desk.enqueue(*(f"evt_{number}_{each}" for each in range(3)), endpoint=f"endpoint-{number % 2}")
    whole = listed(desk)

    assert len(set(ids(whole))) == 12
    assert [row.position for row in whole] == sorted(row.position for row in whole)
    assert ids(listed(desk, limit=5)) == ids(whole)[:5]
    assert ids(listed(desk, after=whole[4].position)) == ids(whole)[5:]


def test_unfinished_deliveries_are_counted_up_to_a_bound(waiting):
    assert waiting.read(count_unfinished, EVERYTHING, at_most=100) == 4
    assert waiting.read(count_unfinished, EVERYTHING, at_most=3) == 3
    assert waiting.read(count_unfinished, Selection(endpoint="crm"), status="pending", at_most=100) == 1


def test_groups_are_by_endpoint_and_code(waiting):
    start = waiting.clock() - 2

    crm, untried, failed = waiting.read(group_unfinished, EVERYTHING, now=waiting.clock())

    assert (crm.endpoint, crm.code, crm.count, crm.due, crm.error) == ("crm", "", 1, 1, "")
    assert (untried.endpoint, untried.code, untried.most_attempts) == ("orders", "", 0)
    assert (untried.count, untried.due, untried.in_flight, untried.parked) == (2, 1, 1, 0)
    assert (untried.oldest_due_at, untried.parked_until) == (start, None)
    assert (failed.code, failed.count, failed.parked, failed.most_attempts) == ("http_503", 1, 1, 1)
    assert (failed.oldest_due_at, failed.parked_until) == (start + 300, start + 300)
    assert (failed.example, failed.answer) == ("evt_parked", "back soon")
