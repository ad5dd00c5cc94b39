"""The lag of the process's own event loop."""

import asyncio
import time

from resonant.dispatch.send.loop_lag import LoopLag


async def test_the_time_in_which_the_loop_stood_still_is_measured():
    with LoopLag().measured() as lag:
        await asyncio.sleep(0.03)
        time.sleep(0.3)
        await asyncio.sleep(0.03)
        assert lag() >= 0.27


async def test_an_answer_that_is_handled_before_the_late_timer_is_measured_too():
    loop = asyncio.get_running_loop()
    with LoopLag().measured() as lag:
        began = loop.time()
        time.sleep(0.3)
        assert 0.27 <= lag() <= loop.time() - began


async def test_a_lag_from_before_is_not_measured():
    measuring = LoopLag()
    with measuring.measured():
        time.sleep(0.5)
        with measuring.measured() as lag:
            await asyncio.sleep(0)
            assert lag() < 0.4


async def test_no_timer_runs_when_nothing_is_measured():
    measuring = LoopLag()
    with measuring.measured():
        await asyncio.sleep(0.03)
    assert measuring._timer.cancelled()
