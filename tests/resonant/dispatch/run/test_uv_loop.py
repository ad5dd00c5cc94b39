"""A signal handler that raises ends the event loop, as Prefect's does when a flow run is cancelled."""

import asyncio
import gc
import os
import signal
import threading

import pytest

from support.event_loops import UvLoop, needs_uvloop

pytestmark = needs_uvloop


class Terminated(BaseException):
    """Like Prefect's TerminationSignal."""


@pytest.fixture
def terminated_by_signal():
    def terminate(*_):
        raise Terminated

    before = signal.signal(signal.SIGUSR1, terminate)
    yield
    signal.signal(signal.SIGUSR1, before)


def run(main):
    with asyncio.Runner(loop_factory=UvLoop) as runner:
        return runner.run(main)


async def wait_for_signal(ended):
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    asyncio.get_running_loop().call_soon(timer.start)  # after this coroutine has begun to sleep
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        ended.append("cleaned up")


def test_while_the_loop_is_idle_its_tasks_are_cancelled(terminated_by_signal):
    ended = []
    with pytest.raises(Terminated):
        run(wait_for_signal(ended))
    assert ended == ["cleaned up"]


def test_while_a_task_runs_it_raises_there(terminated_by_signal):
    async def work():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(60)
        except Terminated:
            return "handled"

    assert run(work()) == "handled"


def test_the_runner_can_run_again_and_cleans_up_at_its_end(terminated_by_signal):
    ended = []
    with asyncio.Runner(loop_factory=UvLoop) as runner:
        with pytest.raises(Terminated):
            runner.run(wait_for_signal(ended))
        assert ended == []
        assert runner.run(asyncio.sleep(0, "it still runs")) == "it still runs"
    assert ended == ["cleaned up"]


def test_an_error_of_a_task_that_nobody_awaits_is_logged_and_the_loop_goes_on(caplog):
    async def fail():
        raise Terminated

    async def work():
        task = asyncio.create_task(fail())
        await asyncio.sleep(0.01)
        del task
        gc.collect()
        await asyncio.sleep(0)
        return "done"

    assert run(work()) == "done"
    assert "never retrieved" in caplog.text


def test_an_error_of_a_callback_is_logged_and_the_loop_goes_on(caplog):
    async def work():
        asyncio.get_running_loop().call_soon(int, "no number")
        await asyncio.sleep(0)
        return "done"

    assert run(work()) == "done"
    assert "invalid literal for int()" in caplog.text
