"""Large bodies are parsed one at a time, and producers take turns."""

import asyncio
import threading

import pytest

from resonant.intake.requests.parsing_turns import ParsingTurns
from support.waiting import until


class Work:
    """Pieces of work that wait to be allowed, and the order in which they ran."""

    def __init__(self):
        self.ran: list[str] = []
        self.running = 0
        self.at_once = 0
        self.may_run = threading.Semaphore(0)

    def piece(self, name):
        def work():
            self.running += 1
            self.at_once = max(self.at_once, self.running)
            self.ran.append(name)
            assert self.may_run.acquire(timeout=60)
            self.running -= 1
            return name

        return work

    def begin(self, turns, *names):
        return [asyncio.create_task(turns.run(name[0], self.piece(name))) for name in names]


@pytest.fixture
def work():
    return Work()


async def test_one_producers_queue_delays_another_by_one_piece(work):
    turns = ParsingTurns()
    tasks = work.begin(turns, "a1", "a2", "a3", "a4", "a5", "b1", "c1", "c2")
    await until(lambda: work.ran == ["a1"])
    work.may_run.release(8)
    assert await asyncio.gather(*tasks) == ["a1", "a2", "a3", "a4", "a5", "b1", "c1", "c2"]
    assert work.ran == ["a1", "a2", "b1", "c1", "a3", "c2", "a4", "a5"]
    assert work.at_once == 1


async def test_a_turn_lasts_until_its_thread_ends_even_if_the_request_is_given_up(work):
    turns = ParsingTurns()
    [first, second, third] = work.begin(turns, "a1", "b1", "c1")
    await until(lambda: work.ran == ["a1"])
    first.cancel()
    second.cancel()
    await asyncio.wait((first, second))
    assert first.cancelled()
    assert second.cancelled()
    assert work.ran == ["a1"], "its thread still runs"
    work.may_run.release(2)
    assert await third == "c1"
    assert work.ran == ["a1", "c1"]
    assert work.at_once == 1


async def test_a_turn_that_came_just_before_the_request_is_given_up_goes_to_the_next(work):
    turns = ParsingTurns()
    turns._is_busy = True
    first, second = work.begin(turns, "a1", "b1")
    await until(lambda: len(turns._waiting) == 2)
    turns._end()
    first.cancel()
    work.may_run.release()
    assert await second == "b1"
    assert work.ran == ["b1"]


async def test_an_error_ends_the_turn():
    turns = ParsingTurns()

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await turns.run("a", fail)
    assert await turns.run("b", lambda: 1) == 1
