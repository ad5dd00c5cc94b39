"""Triage: dead letters with the same cause make one group."""

from __future__ import annotations

import pytest

from resonant.dead_letters import operations
from resonant.dead_letters.advice import advise
from resonant.dead_letters.triage import triage
from resonant.delivery.retry import GiveUp
from resonant.store.views.selection import Selection


def die(desk, *ids, endpoint="orders", event_type="order.paid", reason="exhausted", **attempt):
    """Accept events and give each up, a second after the one before."""
    for event_id in ids:
        desk.enqueue(desk.make(event_id, event_type=event_type), endpoint=endpoint)
        desk.fail(desk.claim_one(endpoint=endpoint), GiveUp(reason), **{"maybe_processed": False, **attempt})
        desk.clock.advance(1)


def cancel(desk, **selection):
    desk.write(operations.cancel, Selection(**selection), limit=100, now=desk.clock())


def test_an_empty_queue_has_no_groups(desk):
    desk.enqueue("evt_pending")
    assert desk.read(triage) == []


def test_dead_letters_whose_errors_differ_by_ids_and_numbers_are_one_group(desk):
    start = desk.clock()
    for number, event_type in enumerate(["order.paid", "order.refunded", "order.paid"]):
        error = (
            f"order 'o-{number}' (0198c0de-7000-7000-8000-00000000000{number}) not found after {number} ms"
        )
        die(desk, f"evt_{number}", event_type=event_type, error=error)

    [group] = desk.read(triage)

    assert group.error == "order <text> (<uuid>) not found after <n> ms"
    assert (group.endpoint, group.code) == ("orders", "http_503")
    assert (group.reason, group.category) == ("exhausted", "transient")
    assert (group.count, group.first_at, group.last_at) == (3, start, start + 2)
    assert group.example == "evt_2"
    assert group.advice == advise(
        code="http_503", reason="exhausted", category="transient", endpoint="orders"
    )


def test_another_endpoint_code_or_message_is_another_group(desk):
    die(desk, "evt_1")
    die(desk, "evt_2", endpoint="crm")
    die(desk, "evt_3", code="http_500")
    die(desk, "evt_4", error="the endpoint is closed for 2 days")

    groups = desk.read(triage)

    assert {(group.endpoint, group.code, group.example) for group in groups} == {
        ("orders", "http_503", "evt_1"),
        ("crm", "http_503", "evt_2"),
        ("orders", "http_500", "evt_3"),
        ("orders", "http_503", "evt_4"),
    }
    assert len({group.fingerprint for group in groups}) == 4


def test_the_largest_group_is_first_and_of_equals_the_order_stays(desk):
    die(desk, "evt_1", code="http_500")
    die(desk, "evt_2", "evt_3", "evt_4", code="http_502")
    die(desk, "evt_5", "evt_6", code="http_504")
    die(desk, "evt_7", code="http_503")

    groups = desk.read(triage)

    assert [group.count for group in groups] == [3, 2, 1, 1]
    assert [group.code for group in groups[:2]] == ["http_502", "http_504"]
    assert groups[2].fingerprint < groups[3].fingerprint
    assert desk.read(triage) == groups


@pytest.mark.parametrize(
    ("selection", "counts"),
    [
        ({"endpoint": "crm"}, {"crm": 1}),
        ({"event_type": "order.*"}, {"orders": 2}),
        ({"ids": ("evt_1", "evt_3")}, {"orders": 1, "crm": 1}),
        ({"since": 1_700_000_001.0}, {"orders": 1, "crm": 1}),
        ({"until": 1_700_000_001.0}, {"orders": 1}),
        ({"text": "after 2 s"}, {"orders": 1}),
        ({"code": "http_404"}, {}),
    ],
)
def test_only_the_selected_dead_letters_are_counted_shown_and_dated(desk, selection, counts):
    die(desk, "evt_1", error="no answer after 1 s")
    die(desk, "evt_2", error="no answer after 2 s")
    die(desk, "evt_3", endpoint="crm", event_type="user.created")
    chosen = Selection(**selection)
    selected = {
        dead_letter.event_id: dead_letter for dead_letter in desk.run(desk.store.dead_letters(chosen))
    }

    groups = desk.read(triage, chosen)

    assert {group.endpoint: group.count for group in groups} == counts
    for group in groups:
        moments = [each.dead_at for each in selected.values() if each.endpoint == group.endpoint]
        assert selected[group.example].endpoint == group.endpoint
        assert (group.first_at, group.last_at) == (min(moments), max(moments))


def test_a_group_of_several_reasons_shows_that_of_most_dead_letters(desk):
    die(desk, "evt_1", "evt_2", reason="exhausted")
    die(desk, "evt_3", "evt_4", "evt_5", reason="expired")

    [group] = desk.read(triage)

    assert (group.count, group.reason) == (5, "expired")
    assert group.advice == advise(code="http_503", reason="expired", category="transient", endpoint="orders")


def test_the_reason_of_most_dead_letters_is_counted_over_event_types(desk):
    # Four causes: one of two dead letters with one reason, and three of one dead letter each with the other.
    die(desk, "evt_1", "evt_2", reason="exhausted")
    for number, event_type in enumerate(["a", "b", "c"]):
        die(desk, f"evt_{event_type}_{number}", event_type=event_type, reason="expired")

    [group] = desk.read(triage)

    assert (group.count, group.reason) == (5, "expired")


def test_dead_letters_cancelled_before_their_first_attempt_are_a_group_without_a_failure(desk):
    desk.enqueue("evt_1", "evt_2")
    cancel(desk, endpoint="orders")

    [group] = desk.read(triage)

    assert (group.code, group.category, group.error) == ("", "", "")
    assert (group.reason, group.count, group.example) == ("cancelled", 2, "evt_2")
    assert group.first_at == group.last_at == desk.clock()
    assert group.advice == advise(code="", reason="cancelled", category="")


def test_what_is_cancelled_after_an_attempt_is_grouped_with_what_failed_alike(desk):
    die(desk, "evt_1", "evt_2")
    desk.enqueue("evt_3")
    desk.fail(desk.claim_one(), desk.park_for(100))
    cancel(desk, ids=("evt_3",))

    [group] = desk.read(triage)

    assert (group.count, group.reason) == (3, "exhausted")
    assert desk.read(triage, Selection(reason="cancelled"))[0].reason == "cancelled"


def test_what_is_replayed_or_purged_leaves_its_group(desk):
    die(desk, "evt_1", "evt_2", "evt_3")
    [before] = desk.read(triage)
    desk.replay(Selection(ids=("evt_3",)))
    desk.write(operations.purge, [desk.row("evt_1")["id"]], now=desk.clock())

    [after] = desk.read(triage)

    assert after.fingerprint == before.fingerprint
    assert (after.count, after.example) == (1, "evt_2")
    assert after.first_at == after.last_at


def test_more_errors_than_are_kept_apart_are_still_one_group(desk, monkeypatch):
    monkeypatch.setattr("resonant.store.queue.causes.MOST_ERRORS", 2)
    die(desk, *(f"evt_{n}" for n in range(2)), error="order 1 is refused")
    for number in range(2, 6):
        die(desk, f"evt_{number}", error=f"order {number} is refused")

    [group] = desk.read(triage)

    assert (group.count, group.error, group.example) == (6, "order <n> is refused", "evt_5")
