"""Polling for the effects of other processes, with timeouts that suit a loaded machine."""

import asyncio
import inspect
import time
from collections.abc import Callable, Sized
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 60.0


def wait_until(condition: Callable[[], T], seconds: float = PATIENCE_SECONDS, *, every: float = 0.05) -> T:
    """Poll until the result is truthy, and return it.

    Raises:
        AssertionError: no result within these seconds.
    """
    give_up_at = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up_at, f"no result within {seconds:g} s"
        time.sleep(every)
    return found


async def until(
    condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS, *, every: float = 0.005
) -> None:
    """Let other tasks run until the condition, or the coroutine that it returns, is truthy."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(every)


async def quiet(happened: Sized, seconds: float = 0.5) -> None:
    """Let other tasks run until nothing has been added to the list for this time."""
    number = -1
    while number != len(happened):
        number = len(happened)
        await asyncio.sleep(seconds)
