"""The rows of announcements, on every database."""

from resonant.store.shared.announcements import (
    add_announcement,
    forget,
    forget_old,
    note_sent,
    prefect_event,
    read_announcements,
)

DAY = 86_400.0


def ids(desk):
    return [each.id for each in desk.read(read_announcements)]


def test_announcements_are_kept_in_order_until_they_are_forgotten_or_a_day_old(desk):
    now = desk.clock()
    events = [prefect_event("resonant.test", endpoint, {"n": 1}, at=now) for endpoint in ("a", "b", None)]
    for number, event in enumerate(events):
        desk.write(add_announcement, event, now=now + number)
    first, second, third = ids(desk)
    assert [each.event for each in desk.read(read_announcements)] == events

    desk.write(note_sent, [second], now=now + 7)
    assert [each.sent_at for each in desk.read(read_announcements)] == [None, now + 7, None]

    desk.write(forget, [])
    assert ids(desk) == [first, second, third]
    desk.write(forget, [second])
    assert ids(desk) == [first, third]
    desk.write(forget_old, now=now + DAY + 1)
    assert ids(desk) == [third]


def test_a_repeat_of_an_announcement_at_the_same_time_is_not_stored_again(desk):
    now = desk.clock()
    event = prefect_event("resonant.test", "a", {"n": 1}, at=now)
    for at in (now, now, now + 1):
        desk.write(add_announcement, event, now=at)
    assert len(ids(desk)) == 2
