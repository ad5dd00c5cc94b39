"""The retention of bodies removes the bodies of delivered events, and nothing else."""

import pytest

from resonant.dead_letters.archive import read_archive
from resonant.dead_letters.purge import DAY_SECONDS, Retention, purge
from resonant.errors import InvalidEvent
from resonant.events import Event
from resonant.store import schema

DATA = {"name": "Jörg Müller"}
KEPT = Retention(dead_letters=1000.0, bodies=7.0)


def run(desk, **options):
    return desk.run(purge(desk.store, KEPT, who="Zoë", now=desk.clock(), **options))


def deliver(desk, event, *endpoints):
    for endpoint in endpoints:
        desk.enqueue(event, endpoint=endpoint)
        desk.deliver(*desk.claim(endpoint=endpoint))


@pytest.fixture
def event(desk):
    """An event that was delivered eight days ago, and whose body is removed."""
    event = desk.make("evt_1", DATA)
    deliver(desk, event, "orders")
    desk.clock.advance(8 * DAY_SECONDS)
    assert run(desk).bodies == 1
    return event


def forms(desk):
    return {row["id"]: row["form"] for row in desk.rows(schema.events)}


def test_only_bodies_of_events_that_were_delivered_everywhere_long_ago_are_removed(desk):
    deliver(desk, desk.make("evt_1", DATA), "orders", "audit")
    deliver(desk, desk.make("evt_dead", DATA), "orders")
    desk.bury(desk.make("evt_dead", DATA), endpoint="audit")
    deliver(desk, desk.make("evt_pending", DATA), "orders")
    desk.enqueue(desk.make("evt_pending", DATA), endpoint="audit")
    deliver(desk, Event(id="evt_absent", type="order.paid", source="/shop"), "orders")
    deliver(desk, desk.make("evt_late", DATA), "orders")
    desk.clock.advance(7 * DAY_SECONDS)
    deliver(desk, desk.make("evt_late", DATA), "audit")
    deliver(desk, desk.make("evt_new", DATA), "orders")
    before = desk.status()

    by_default = Retention(delivered=None)
    assert desk.run(purge(desk.store, by_default, who="Zoë", now=desk.clock())).bodies == 0
    assert str(run(desk, dry_run=True)) == "0 would be purged, 10 kept; 1 body would be removed"
    assert desk.detail("evt_1").event.body
    assert str(run(desk)) == "0 purged, 10 kept; 1 body removed"

    assert forms(desk) == {
        **dict.fromkeys(["evt_dead", "evt_pending", "evt_late", "evt_new"]),
        "evt_absent": "absent",
        "evt_1": "removed",
    }
    assert [bool(row["body"]) for row in desk.rows(schema.events) if row["form"] is None] == [True] * 4
    assert desk.detail("evt_1").event.body == b""
    assert desk.status() == before
    assert run(desk).bodies == 0


def test_more_bodies_than_a_batch_are_removed(desk):
    desk.enqueue(*(desk.make(f"evt_{number}", DATA) for number in range(120)))
    desk.deliver(*desk.claim(120))
    desk.clock.advance(8 * DAY_SECONDS)
    assert run(desk).bodies == 120


def test_a_repeat_is_still_recognised(desk, event):
    assert desk.enqueue(event).known == 1
    [conflict] = desk.enqueue(desk.make("evt_1", "other"), report_conflicts=True).conflicts
    assert "stored type=order.paid" in str(conflict)
    assert str(conflict).endswith("data=(removed)")


def test_a_new_delivery_of_the_event_has_the_body_again(desk, event):
    assert desk.enqueue(event, endpoint="audit").accepted == 1
    [lease] = desk.claim(endpoint="audit")
    assert (lease.event.body, lease.event.form) == (event.body, "json")


@pytest.mark.usefixtures("event")
def test_an_archived_event_without_a_body_cannot_be_stored_again(desk, tmp_path):
    desk.purge(archive=tmp_path / "archive.jsonl")
    [archived] = read_archive(tmp_path / "archive.jsonl")
    with pytest.raises(
        InvalidEvent, match="the data of the event 'evt_1' was removed: it cannot be stored again"
    ):
        desk.enqueue(archived.event)
