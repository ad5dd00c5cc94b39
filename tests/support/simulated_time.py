"""An event loop whose time jumps to the next timer: an hour of waiting takes no time, and every run is the same."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop for coroutines that wait for each other and for timers, and for nothing outside."""

    def __init__(self) -> None:
        self.now = 1_000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None):
        if timeout is None:
            raise RuntimeError("every coroutine waits for another one")
        self._loop.now += max(1e-7, timeout)  # also a computer takes time
        return super().select(0)


def run_in_simulated_time(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine in a loop of its own; ``asyncio.get_running_loop().time()`` is its time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)
