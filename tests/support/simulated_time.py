"""An event loop whose time jumps to the next timer: an hour of waiting takes no time, and every run is the same."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop for coroutines that wait only for each other and for timers.

    Work for other threads runs at once, in this thread. So the loop supports stores in SQLite, but not PostgreSQL or HTTP.
    """

    def __init__(self) -> None:
        self.now = 1_000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a function; its caller continues in the next iteration, as after a thread."""
        done = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - it is for the caller
            self.call_soon(_unless_done, done, done.set_exception, error)
        else:
            self.call_soon(_unless_done, done, done.set_result, result)
        return done


def _unless_done(future: asyncio.Future[Any], end: Callable[[Any], None], value: Any) -> None:
    if not future.done():
        end(value)


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None):
        if timeout is None:
            raise RuntimeError("every coroutine waits for another one")
        self._loop.now += max(1e-7, timeout)  # computing takes time too
        return super().select(0)


def run_in_simulated_time(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine in its own loop; ``asyncio.get_running_loop().time()`` is its time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)


def clock_from(start: float) -> Callable[[], float]:
    """Return a clock that shows ``start`` now, in seconds, and goes as the time of the running loop."""
    loop = asyncio.get_running_loop()
    ahead = start - loop.time()
    return lambda: ahead + loop.time()


def simulated(test):
    """Run an async test in simulated time."""

    @functools.wraps(test)
    def run(*arguments, **fixtures):
        run_in_simulated_time(test(*arguments, **fixtures))

    return run
