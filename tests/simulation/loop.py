"""An event loop on which several processes run in virtual time. A generator chooses which of them runs next."""

import asyncio
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from support.simulated_time import SimulatedLoop

_process: contextvars.ContextVar["Process"] = contextvars.ContextVar("process")
# How long one callback takes, in seconds.
_STEP_SECONDS = 1e-6


class Process:
    """A process on the loop: its callbacks run in the order in which they were scheduled.

    Attributes:
        killed_at: when it was killed; nothing of it runs any more, not even a ``finally``.
        is_frozen: whether nothing of it runs for now.
    """

    def __init__(self, name: str, loop: "WorldLoop") -> None:
        self.name, self.loop = name, loop
        self.ready: deque[asyncio.Handle] = deque()
        self.killed_at: float | None = None
        self.is_frozen = False
        self.tasks: list[asyncio.Task[Any]] = []
        self._context = contextvars.copy_context()
        self._context.run(_process.set, self)
        loop.processes.append(self)

    @property
    def is_alive(self) -> bool:
        return self.killed_at is None

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task of this process."""
        task = self.loop.create_task(work, context=self._context.copy())
        self.tasks.append(task)
        return task

    def call(self, function: Callable[..., object], *args: object, after: float = 0.0) -> None:
        """Call a function in this process, after this many seconds."""
        self.loop.call_at(self.loop.time() + after, function, *args, context=self._context)

    def kill(self) -> None:
        """End the process between two steps."""
        if self.is_alive:
            self.killed_at = self.loop.time()
            self.is_frozen = False
            self.loop.graveyard.append((self, self.ready))
            self.ready = deque()
            self.loop.processes.remove(self)


def this_process() -> Process:
    """Return the process that runs now."""
    return _process.get()


class _Task(asyncio.Task):
    """A task whose place in a set does not depend on its address."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_Task._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class WorldLoop(asyncio.BaseEventLoop):
    """The loop of a world.

    Args:
        rng: chooses the process that runs next.

    Attributes:
        now: the time in seconds; it jumps to the next timer when no process can run.
        graveyard: keeps what killed processes had, since closing a coroutine runs its ``finally``.
    """

    def __init__(self, rng: Random) -> None:
        super().__init__()
        _Task._numbers = itertools.count()
        self.now = 1_000.0
        self.processes: list[Process] = []
        self.graveyard: list[Any] = []
        self._rng = rng
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = itertools.count()
        self._world = Process("world", self)
        self.set_task_factory(lambda loop, work, **options: _Task(work, loop=loop, **options))

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._queue(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    run_in_executor = SimulatedLoop.run_in_executor

    def _queue(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(_process, self._world)
        if process.is_alive:
            process.ready.append(handle)
        else:
            self.graveyard.append(handle)

    def _run_once(self) -> None:
        able = [each for each in self.processes if each.ready and not each.is_frozen]
        if not able:
            self._wait()
            return
        process = able[0] if len(able) == 1 else self._rng.choice(able)
        handle = process.ready.popleft()
        self.now += _STEP_SECONDS
        if not handle._cancelled:
            handle._run()

    def _wait(self) -> None:
        """Jump to the next timer."""
        while self._timers and self._timers[0][2]._cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            raise RuntimeError("every process waits for another one")
        self.now = max(self.now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self.now:
            _, _, timer = heapq.heappop(self._timers)
            if not timer._cancelled:
                self._queue(timer)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: cancelled timers are skipped when they are due."""

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        self.graveyard.append(agen)  # otherwise its end would depend on the garbage collector

    def _write_to_self(self) -> None:
        """Do nothing: there are no threads."""
