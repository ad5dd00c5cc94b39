"""Finding dead letters by two ways, which must find the same."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resonant.delivery.retry import GiveUp
from resonant.store.views.dead_letters import DeadLetters, Key
from resonant.store.views.reads import dead_letters
from resonant.store.views.selection import Selection
from support.examples import examples

ENDPOINTS, TYPES, CODES = (
    ("orders", "audit"),
    ("order.paid", "order.refunded", "user.created"),
    ("http_503", "http_400"),
)


@pytest.fixture
def queue(desk):
    """Sixty dead letters of many causes; of one kind there are more errors than are kept apart."""
    for number in range(60):
        endpoint, event_type, code = ENDPOINTS[number % 2], TYPES[number % 3], CODES[number % 5 == 0]
        desk.enqueue(desk.make(f"evt_{number:02}", event_type=event_type), endpoint=endpoint)
        category = "permanent" if code == "http_400" else "transient"
        reason = "permanent" if code == "http_400" else "exhausted"
        error = f"{'order' if number % 2 else 'Kunde'} {number} is refused"
        lease = desk.claim_one(endpoint=endpoint)
        desk.fail(lease, GiveUp(reason), category=category, code=code, error=error)
        if number % 4:
            desk.clock.advance(1)
    return desk


@pytest.fixture(autouse=True)
def few_errors_are_kept_apart(monkeypatch):
    monkeypatch.setattr("resonant.store.queue.causes.MOST_ERRORS", 2)
    monkeypatch.setattr("resonant.store.queue.causes.MOST_NORMALISED", 3)


def by_hand(desk, selection):
    """Return what the selection must find, found by looking at each dead letter."""
    every = desk.run(desk.store.dead_letters())
    return [
        dead_letter.event_id
        for dead_letter in every
        if selection.endpoint in (None, dead_letter.endpoint)
        and selection.event_type in (None, dead_letter.event_type)
        and selection.code in (None, dead_letter.code)
        and (selection.text is None or selection.text.lower() in dead_letter.error.lower())
        and (selection.since is None or dead_letter.dead_at >= selection.since)
        and (selection.until is None or dead_letter.dead_at < selection.until)
        and (not selection.ids or dead_letter.event_id in selection.ids)
    ]


selections = st.builds(
    Selection,
    ids=st.sampled_from([(), ("evt_03", "evt_10", "evt_none")]),
    endpoint=st.sampled_from([None, *ENDPOINTS, "nobody"]),
    event_type=st.sampled_from([None, *TYPES]),
    code=st.sampled_from([None, *CODES]),
    text=st.sampled_from([None, "order", "KUNDE 4", "7", "nowhere"]),
    since=st.sampled_from([None, 1_700_000_010.0]),
    until=st.sampled_from([None, 1_700_000_030.0]),
)


@settings(
    max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(selection=selections, limit=st.sampled_from([1, 7, None]), few=st.booleans())
def test_both_ways_find_what_a_look_at_each_dead_letter_finds(queue, selection, limit, few):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("resonant.store.views.dead_letters._FEW_CAUSES", 64 if few else 0)
        found = [each.event_id for each in queue.run(queue.store.dead_letters(selection, limit=limit))]
    expected = by_hand(queue, selection)
    assert found == expected[:limit]
    counted = queue.read(lambda connection: DeadLetters.of(connection, selection).count(connection))
    assert counted == len(expected)


@pytest.mark.parametrize(
    "selection", [Selection(), Selection(code="http_400"), Selection(text="order 1")], ids=str
)
def test_pages_one_after_the_other_are_the_whole(queue, selection):
    whole = queue.run(queue.store.dead_letters(selection))
    before, pages = None, []

    def page(connection):
        found = DeadLetters.of(connection, selection).newest(connection, limit=4, before=before)
        return found, dead_letters(connection, selection, limit=4, before=before)

    while True:
        keys, found = queue.read(page)
        if not keys:
            break
        assert [key.finished_at for key in keys] == [dead_letter.dead_at for dead_letter in found]
        pages += found
        before = keys[-1]
    assert pages == whole


def test_permanent_ones_can_be_left_out(queue):
    def count(connection, include_permanent):
        return DeadLetters.of(connection, Selection(), include_permanent=include_permanent).count(connection)

    assert queue.read(count, False) == 48
    assert queue.read(count, True) == 60


def test_counting_stops_where_it_is_told(queue):
    assert (
        queue.read(lambda connection: DeadLetters.of(connection, Selection()).count(connection, at_most=7))
        == 7
    )


def test_a_dead_letter_that_is_gone_is_still_a_place_to_go_on_from(queue):
    [newest] = queue.run(queue.store.dead_letters(limit=1))
    before = Key(newest.dead_at, 10**9)
    assert queue.read(dead_letters, limit=1, before=before)[0] == newest


def test_what_a_replay_may_take_is_named_cause_by_cause_even_where_that_is_all_of_them(queue):
    """A dead letter of a new cause may be committed between the look at the causes and the look at the dead letters."""

    def causes(connection, **words):
        return DeadLetters.of(connection, Selection(), **words).causes

    assert queue.read(causes, include_permanent=False) is not None
    assert queue.read(causes, without_endpoints={"nobody"}) is not None


def test_an_endpoint_can_be_left_out(queue):
    def found(connection):
        selected = DeadLetters.of(connection, Selection(), without_endpoints={"audit"})
        return selected.endpoints(connection), selected.count(connection)

    assert queue.read(found) == (["orders"], 30)
