"""Send slots: evenly spaced times, reserved for one process at a time."""

import asyncio
import itertools

import pytest
from sqlalchemy import update

from resonant.store import schema
from resonant.store.shared import send_slots
from resonant.store.shared.send_slots import AHEAD_SECONDS, reserve
from support.waiting import PATIENCE_SECONDS


@pytest.fixture
def ask(desk):
    """Reserve slots; on PostgreSQL the server's clock goes on meanwhile."""

    def ask(number=1, *, rate=50.0, notice=0.0, endpoint="orders"):
        return desk.write(reserve, endpoint, rate=rate, number=number, notice=notice, clock=desk.store.clock)

    return ask


@pytest.fixture
def ahead(monkeypatch):
    """Let slots be reserved for longer than a test takes; return for how many seconds."""
    monkeypatch.setattr(send_slots, "AHEAD_SECONDS", PATIENCE_SECONDS)
    return PATIENCE_SECONDS


def put(desk, reserved_until):
    desk.execute(update(schema.send_slots).values(reserved_until=reserved_until))


def test_reservations_follow_each_other_without_a_gap(ask, ahead):
    rate = 10 / ahead
    first = ask(10, rate=rate)
    second = ask(3, rate=rate)

    assert (first.number, second.number) == (10, 3)
    assert second.first == pytest.approx(first.first + 10 / rate, abs=1e-6)


def test_about_a_second_is_reserved_at_most_and_the_answer_says_when_to_ask_again(ask, ahead):
    assert AHEAD_SECONDS == 0.5
    given = [ask(1_000, rate=2.0) for _ in range(4)]

    reserved = [each for each in given if each.number]
    ends = reserved[-1].first + reserved[-1].number / 2
    assert all(each.number == 2 * ahead for each in reserved)
    assert ends <= given[-1].now + 2 * ahead + 1e-6
    assert given[-1].number == 0
    assert given[-1].first == pytest.approx(ends - ahead, abs=1e-6)


def test_a_slow_rate_gives_one_slot_and_the_next_one_only_when_it_is_near(ask, desk):
    given = ask(5, rate=0.01)
    assert given.number == 1

    later = ask(5, rate=0.01)
    assert (later.number, later.first) == (0, pytest.approx(given.first + 100 - AHEAD_SECONDS, abs=1e-6))

    put(desk, later.now + AHEAD_SECONDS / 2)
    assert ask(5, rate=0.01).number == 1


@pytest.mark.parametrize("ahead", [-100, 3_600], ids=["unused", "clock set back, or rate was lower"])
def test_slots_of_the_past_and_far_ahead_are_forgotten(ask, desk, ahead):
    put(desk, ask(10).now + ahead)

    given = ask(notice=0.1)
    assert (given.number, given.first) == (1, pytest.approx(given.now + 0.1, abs=1e-6))


def test_endpoints_have_slots_of_their_own(ask):
    ask(25)

    given = ask(25, endpoint="billing")
    assert given.first == pytest.approx(given.now, abs=1e-6)


def test_processes_that_ask_at_once_get_different_slots(desk):
    async def ask_at_once():
        asking = (
            desk.store.write(reserve, "orders", rate=50.0, number=2, notice=0.0, clock=desk.store.clock)
            for _ in range(8)
        )
        return await asyncio.gather(*asking)

    given = sorted(each.first for each in desk.run(ask_at_once()))
    assert all(later - earlier >= 2 / 50 - 1e-6 for earlier, later in itertools.pairwise(given))
