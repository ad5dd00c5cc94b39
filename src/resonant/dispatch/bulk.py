"""The bulk lane: sends many deliveries as one unit of work, so that sends do not wait for the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from resonant.events import Clock, Lease, LeaseKey

Place = Callable[["Lease"], AbstractAsyncContextManager[bool]]

# How often a task that waits for room checks whether the run has ended.
_LOOK_SECONDS = 0.25


class PrefetchWindow:
    """Limits the deliveries to one endpoint that have begun but are not sent yet. A crash charges each an attempt.

    When at most ``width`` deliveries wait to be sent, the next ``2 * width`` begin in one commit, so that commits are
    large. So at most ``MOST_BEGUN * width`` have begun, including those being sent.

    Args:
        width: the maximum number of concurrent sends, at least 1.
    """

    _AT_ONCE = 2
    # Being sent, waiting, and begun in one commit on top of these.
    MOST_BEGUN = 1 + 1 + _AT_ONCE

    def __init__(self, width: int) -> None:
        self.width = width
        self.turn = asyncio.Lock()
        self._number = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    @property
    def at_once(self) -> int:
        """How many deliveries begin in one commit."""
        return self._AT_ONCE * self.width

    async def wait_for_room(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Wait until more deliveries may begin, or the run ends."""
        while not self._has_room.is_set() and not is_over():
            with contextlib.suppress(TimeoutError):
                # Not wait_for: Python 3.11's may lose a cancellation.
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._has_room.wait()

    def change(self, by: int) -> None:
        """Change the number of deliveries that have begun but are not on the wire yet."""
        self._number += by
        if self._number <= self.width:
            self._has_room.set()
        else:
            self._has_room.clear()


class _Begun:
    """The begun deliveries of one chunk, in a queue. Each counts in the window until it has a place on the wire."""

    def __init__(self, window: PrefetchWindow) -> None:
        self._window = window
        self._number_ahead = 0
        self._queue: asyncio.Queue[tuple[Lease, float] | None] = asyncio.Queue()

    def put(self, lease: Lease, begun_at: float) -> None:
        self._change(1)
        self._queue.put_nowait((lease, begun_at))

    def end(self, takers: int) -> None:
        """Signal the end of the queue to this number of takers."""
        for _ in range(takers):
            self._queue.put_nowait(None)

    async def take(self) -> tuple[Lease, float] | None:
        """Return the next lease and the time at which it began; None at the end."""
        return await self._queue.get()

    def note_place(self) -> None:
        """Stop counting a taken lease, since it has its place on the wire."""
        self._change(-1)

    def forget(self) -> None:
        """Stop counting all leases, since no more will be sent."""
        self._change(-self._number_ahead)

    def _change(self, by: int) -> None:
        self._number_ahead += by
        self._window.change(by)


async def send_ahead(
    leases: Sequence[Lease],
    *,
    begin: Callable[[Sequence[Lease]], Awaitable[set[LeaseKey]]],
    place: Place,
    send: Callable[[Lease, float], Awaitable[None]],
    on_lost: Callable[[Lease], None],
    on_left: Callable[[Sequence[Lease]], None],
    window: PrefetchWindow,
    clock: Clock,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Send deliveries, and begin a few in the store ahead of their sends.

    Args:
        leases: the leases to send, in order.
        begin: records in the store that sends are about to start; returns the leases that are still held.
        place: returns a place on the wire; entering its context waits for a free one, and returns whether to send.
        send: makes one attempt, within a place, given the time at which it began; up to ``window.width`` calls run
            concurrently.
        on_lost: called with each lease that this process lost; its delivery is not sent.
        on_left: called with the leases that were not begun because the run ended, or not to be sent.
        window: shared by all chunks to the same endpoint, which begin one after the other.
        clock: tells when each delivery began.
        is_over: returns whether to stop beginning sends.

    Raises:
        Exception: the first error of ``begin`` or ``send``; the other sends are cancelled.
    """
    begun = _Begun(window)
    workers = min(window.width, len(leases))

    async def begin_all() -> None:
        async with window.turn:
            left = await _begin(leases, begun, begin, on_lost, window, clock, is_over)
        begun.end(workers)
        on_left(left)

    async def send_each() -> None:
        while (next_one := await begun.take()) is not None:
            lease, begun_at = next_one
            async with place(lease) as may_send:
                begun.note_place()
                if may_send:
                    await send(lease, begun_at)
                else:
                    on_left([lease])

    senders = [asyncio.create_task(send_each()) for _ in range(workers)]
    try:
        await all_of([asyncio.create_task(begin_all()), *senders])
    finally:
        begun.forget()


async def _begin(
    leases: Sequence[Lease],
    begun: _Begun,
    begin: Callable[[Sequence[Lease]], Awaitable[set[LeaseKey]]],
    on_lost: Callable[[Lease], None],
    window: PrefetchWindow,
    clock: Clock,
    is_over: Callable[[], bool],
) -> list[Lease]:
    """Begin leases in order; return those that were not begun."""
    for start in range(0, len(leases), window.at_once):
        await window.wait_for_room(is_over)
        if is_over():
            return list(leases[start:])
        next_ones = leases[start : start + window.at_once]
        begun_at = clock()
        held = await begin(next_ones)
        for lease in next_ones:
            if lease.key in held:
                begun.put(lease, begun_at)
            else:
                on_lost(lease)
    return []


async def all_of(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for tasks; on the first error, cancel the others and raise it."""
    # Not a TaskGroup: it would raise an interruption again when asyncio cancels the remaining tasks.
    try:
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises the task's error, even if a sink cancelled itself
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
