"""Measures how late an event loop runs its timers. The process, not the endpoint, delays answers by this time."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TICK_SECONDS = 0.02
# A timer may be late by this much on an idle loop.
_USUAL_SECONDS = 0.005


class LoopLag:
    """The lag of the running loop. A timer ticks only while something is measured."""

    def __init__(self) -> None:
        self._earlier = 0.0
        self._due = 0.0
        self._measuring = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def measured(self) -> Iterator[Callable[[], float]]:
        """Measure during the block; yields a function that returns the lag since its start, in seconds."""
        if not self._measuring:
            self._plan_tick()
        self._measuring += 1
        before = self._so_far()
        try:
            yield lambda: self._so_far() - before
        finally:
            self._measuring -= 1
            if not self._measuring and self._timer is not None:
                self._timer.cancel()

    def _so_far(self) -> float:
        # The loop handles answers before timers, so the next tick may be late already.
        late = asyncio.get_running_loop().time() - self._due
        return self._earlier + (late if late > _USUAL_SECONDS else 0.0)

    def _tick(self) -> None:
        self._earlier = self._so_far()
        self._plan_tick()

    def _plan_tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + _TICK_SECONDS
        self._timer = loop.call_at(self._due, self._tick)
