"""Dead letters are read in pages, counted, and restricted for a replay."""

import pytest

from resonant.store.views.dead_letters import DeadLetters, Position
from resonant.store.views.reads import count_dead_letters, each_dead_letter
from resonant.store.views.selection import Selection

TYPES = ("order.paid", "order.refunded", "user.created")


@pytest.fixture
def queue(desk):
    """Thirty dead letters with many causes; one kind has more errors than the store keeps apart."""
    for number in range(10):
        events = [desk.make(f"evt_{number}_{name}", event_type=name) for name in TYPES]
        endpoint, who = ("audit", "order") if number % 2 else ("orders", "Kunde")
        failure = {"endpoint": endpoint, "error": f"{who} {number + 8} is refused"}
        if number % 5 == 0:
            failure |= {"reason": "permanent", "category": "permanent", "code": "http_400"}
        desk.bury(*events, **failure)
        desk.clock.advance(1 if number % 4 else 0)
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
    assert whole == sorted(whole, key=lambda each: -each.dead_at)
    assert queue.read(count_dead_letters, selection) == len(whole) > 0
    before, pages = None, []

    def page(connection):
        found = DeadLetters.of(connection, selection).newest(connection, limit=4, before=before)
        return found, list(each_dead_letter(connection, selection, limit=4, before=before))

    while True:
        keys, found = queue.read(page)
        if not keys:
            break
        assert [key.at for key in keys] == [dead_letter.dead_at for dead_letter in found]
        pages += found
        before = keys[-1]
    assert pages == whole


def test_permanent_failures_and_endpoints_can_be_left_out(queue):
    def count(connection, *, at_most=None, **options):
        return DeadLetters.of(connection, Selection(), **options).count(connection, at_most=at_most)

    assert queue.read(count) == 30
    assert queue.read(count, at_most=7) == 7
    assert queue.read(count, include_permanent=False) == 24
    assert queue.read(count, without_endpoints={"audit"}) == 15


def test_a_list_continues_after_a_dead_letter_that_does_not_exist(queue):
    [newest] = queue.run(queue.store.dead_letters(limit=1))

    def following(connection):
        return next(each_dead_letter(connection, limit=1, before=Position(newest.dead_at, 10**9)))

    assert queue.read(following) == newest


def test_a_replay_names_each_cause_even_if_it_takes_all_of_them(queue):
    """A dead letter of a new cause may be committed between the look at the causes and the look at the dead letters."""

    def selected(connection):
        found = DeadLetters.of(connection, Selection(), without_endpoints={"nobody"})
        return found.causes, found.endpoints(connection)

    causes, endpoints = queue.read(selected)
    assert causes is not None
    assert endpoints == ["audit", "orders"]
