"""A dead letter shows the receiver's answer, and whether it may have processed the event."""

from __future__ import annotations

from resonant.delivery.retry import GiveUp
from resonant.store.views.selection import Selection


def dead_letters(desk):
    return {each.event_id: each for each in desk.run(desk.store.dead_letters(Selection()))}


def test_the_answer_is_that_of_the_last_attempt(desk):
    desk.enqueue("evt_1", "evt_2")
    for lease in desk.claim(2):
        desk.fail(lease, desk.park_for(0), excerpt="the first answer")
    for lease in desk.claim(2):
        excerpt = "the last answer" if lease.event.id == "evt_1" else None
        desk.fail(lease, GiveUp("exhausted"), excerpt=excerpt)

    found = dead_letters(desk)

    assert (found["evt_1"].answer, found["evt_2"].answer) == ("the last answer", None)


def test_one_attempt_that_may_have_been_processed_is_enough(desk):
    desk.enqueue("evt_1", "evt_2")
    for lease in desk.claim(2):
        desk.fail(lease, desk.park_for(0), code="http_504", maybe_processed=lease.event.id == "evt_1")
    for lease in desk.claim(2):
        desk.fail(lease, GiveUp("exhausted"), maybe_processed=False)

    found = dead_letters(desk)

    assert (found["evt_1"].maybe_processed, found["evt_2"].maybe_processed) == (True, False)


def test_a_dead_letter_that_was_never_tried_has_no_answer(desk):
    desk.enqueue("evt_1")
    desk.cancel(ids=("evt_1",))

    [dead_letter] = dead_letters(desk).values()

    assert (dead_letter.answer, dead_letter.maybe_processed) == (None, False)
