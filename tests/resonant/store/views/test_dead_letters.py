"""Dead letters are read in pages, counted, and restricted for a replay."""

from __future__ import annotations

import pytest

from resonant.store.views.dead_letters import DeadLetters, Position
from resonant.store.views.reads import dead_letters
from resonant.store.views.selection import Selection

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
        failure = {"category": "permanent" if code == "http_400" else "transient", "code": code}
        failure["error"] = f"{'order' if number % 2 else 'Kunde'} {number} is refused"
        reason = "permanent" if code == "http_400" else "exhausted"
        event = desk.make(f"evt_{number:02}", event_type=event_type)
        desk.bury(event, endpoint=endpoint, reason=reason, apart=1 if number % 4 else 0, **failure)
    return desk


@pytest.fixture(autouse=True)
def few_errors_are_kept_apart(monkeypatch):
    monkeypatch.setattr("resonant.store.queue.causes.MOST_ERRORS", 2)
    monkeypatch.setattr("resonant.store.queue.causes.MOST_NORMALISED", 3)


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


def test_counting_stops_at_the_given_number(queue):
    assert (
        queue.read(lambda connection: DeadLetters.of(connection, Selection()).count(connection, at_most=7))
        == 7
    )


def test_a_dead_letter_that_is_gone_is_still_a_place_to_go_on_from(queue):
    [newest] = queue.run(queue.store.dead_letters(limit=1))
    before = Position(newest.dead_at, 10**9)
    assert queue.read(dead_letters, limit=1, before=before)[0] == newest


def test_a_replay_names_each_cause_even_if_it_takes_all_of_them(queue):
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
