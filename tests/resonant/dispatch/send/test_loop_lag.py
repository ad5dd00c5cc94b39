"""The lag of the process's own event loop."""

import asyncio

from resonant.dispatch.send.loop_lag import LoopLag


def stand_still(seconds):
    """Let simulated time pass without a turn of the loop, as a busy processor does."""
    asyncio.get_running_loop().now += seconds


async def test_the_time_in_which_the_loop_stood_still_is_measured():
    with LoopLag().measured() as lag:
        await asyncio.sleep(0.03)
        stand_still(0.3)
        await asyncio.sleep(0.03)
        assert lag() >= 0.27


async def test_an_answer_that_is_handled_before_the_late_timer_is_measured_too():
    with LoopLag().measured() as lag:
        stand_still(0.3)
        assert 0.27 <= lag() <= 0.31


async def test_a_lag_from_before_is_not_measured():
    measuring = LoopLag()
    with measuring.measured():
        stand_still(0.5)
        with measuring.measured() as lag:
            await asyncio.sleep(0)
            assert lag() < 0.1


async def test_no_timer_runs_when_nothing_is_measured():
    measuring = LoopLag()
    with measuring.measured():
        await asyncio.sleep(0.03)
    assert measuring._timer.cancelled()
