"""The asyncio tasks of a run, and the error that ends it."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from resonant.dispatch.waiting import wait_at_most
from resonant.errors import StoreRefused
from resonant.store.engine.availability import is_lock, retry_while_unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable

    Work = Callable[[], Coroutine[Any, Any, None]]

    from resonant.dispatch.limits import Limits
    from resonant.errors import StoreUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How often a run says that it waits for the store.
_WARN_AGAIN_SECONDS = 60.0


class RunningTasks:
    """The tasks of a run. The first error, raised by a task or reported with ``fail``, ends the run.

    Attributes:
        failure: the error that ended the run, if any.
        end: the event loop's time at which the run's time is up; None for no limit.
    """

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.end: float | None = None
        self._outlasts_outages = False
        self._warned_at = -math.inf
        self._tasks: set[asyncio.Task[object]] = set()
        self._changed = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Start a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def begin(self, limits: Limits) -> None:
        """Set the run's end if the limits have one."""
        self.end = math.inf if limits.successors else None
        self._outlasts_outages = bool(limits.successors)
        if limits.run_for > 0:
            self.end_in(limits.run_for)

    def end_in(self, seconds: float) -> None:
        """End the run after this many seconds, or at its current end if that is earlier."""
        end = asyncio.get_running_loop().time() + seconds
        self.end = end if self.end is None else min(self.end, end)

    def fail(self, error: BaseException) -> None:
        """Report an error; only the first is kept."""
        if self.failure is None:
            self.failure = error
        self.note_change()

    def fail_with(self, task: asyncio.Task[None]) -> None:
        """Report the error of a finished background task, if it has one."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def raise_failure(self) -> None:
        """Raise the error that ended the run, if any."""
        if self.failure is not None:
            raise self.failure

    def is_over(self) -> bool:
        """Return whether the run has failed, or its time is up."""
        return self.failure is not None or (
            self.end is not None and asyncio.get_running_loop().time() >= self.end
        )

    def seconds_left(self) -> float:
        """Return how long until the run's time is up, in seconds."""
        return math.inf if self.end is None else max(0.0, self.end - asyncio.get_running_loop().time())

    def outlasts(self, error: StoreUnavailable) -> bool:
        """Return whether the run waits until the store is back: for a lock, or, in a run with successors, for an outage.

        So the outcomes of its sends are kept, and recorded then, even if the run's time is up meanwhile.
        """
        if is_lock(error):
            return True
        if not self._outlasts_outages or isinstance(error, StoreRefused) or self.failure is not None:
            return False
        if self.is_over() and not self._tasks:
            return False
        now = asyncio.get_running_loop().time()
        if now > self._warned_at + _WARN_AGAIN_SECONDS:
            self._warned_at = now
            logger.warning("waiting for the store: %s", error)
        return True

    async def outlast(self, operation: Callable[[], Awaitable[T]], patience: float) -> T:
        """Repeat an operation while the store is unavailable, for this many seconds or as ``outlasts`` says."""
        return await retry_while_unavailable(operation, patience, outlasts=self.outlasts)

    def note_change(self) -> None:
        """Wake the run after a task has ended or freed a slot."""
        self._changed.set()

    def forget_changes(self) -> None:
        """Forget past changes; ``wait_for_change`` waits for later ones."""
        self._changed.clear()

    async def wait_for_change(self, seconds: float) -> None:
        """Wait for a change since the last ``forget_changes``, for at most this many seconds."""
        await wait_at_most(seconds, self._changed)

    @asynccontextmanager
    async def beside(self, works: Iterable[Work]) -> AsyncIterator[None]:
        """Run these functions in the background of the block; the first error ends the run."""
        tasks = [asyncio.create_task(work()) for work in works]
        for task in tasks:
            task.add_done_callback(self.fail_with)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """Cancel every task and wait until all have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        self.note_change()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)
