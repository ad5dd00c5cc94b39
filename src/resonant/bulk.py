"""The bulk lane: many deliveries sent as one piece of work, so that the network never waits for the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from resonant.events import Lease, LeaseKey

# Twice as many are held in memory, each with its body, if there is one endpoint; of several, four times as many in all.
MAX_CHUNK_SIZE = 5_000


class Ahead:
    """What has begun and is not being sent yet, of all chunks to an endpoint: a crash would be charged to it.

    Args:
        width: how many may be sent at the same time, at least 1. As many may be ahead when more is begun, twice as many
            at once: large enough for a commit, and small enough.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.turn = asyncio.Lock()
        self._number = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def wait_for_room(self) -> None:
        """Wait until more may begin."""
        await self._has_room.wait()

    def change(self, number: int) -> None:
        """Count what has begun, or, negative, what is being sent or is not to be sent any more."""
        self._number += number
        if self._number <= self.width:
            self._has_room.set()
        else:
            self._has_room.clear()


async def send_ahead(
    leases: Sequence[Lease],
    *,
    begin: Callable[[Sequence[Lease]], Awaitable[set[LeaseKey]]],
    send: Callable[[Lease], Awaitable[None]],
    on_lost: Callable[[Lease], None],
    ahead: Ahead,
    good_for: float,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Lease]:
    """Begin leases a few ahead of need, and send them.

    Args:
        leases: what to send, in this order.
        begin: notes in the store that sends are about to start; returns which of them are still held.
        send: makes one attempt; it is called with up to ``ahead.width`` leases at the same time.
        on_lost: told of each lease that is not held any more; nothing is sent for it.
        ahead: shared by all chunks to the same endpoint, of which one begins after the other.
        good_for: how many seconds after it began a lease may be sent without asking again whether it is still held.
        is_over: asked before more is begun; once it says so, no more is.

    Returns:
        Those that were not begun, since it was over.

    Raises:
        Exception: whatever ``begin`` or ``send`` raised first; what is being sent is then cancelled.
    """
    begun: asyncio.Queue[tuple[Lease, float] | None] = asyncio.Queue()
    workers = min(ahead.width, len(leases))
    now = asyncio.get_running_loop().time

    async def send_each() -> None:
        while (next_one := await begun.get()) is not None:
            ahead.change(-1)
            lease, begun_at = next_one
            # This process may have stood still for longer than the lease went on.
            if now() - begun_at > good_for and not await begin([lease]):
                on_lost(lease)
            else:
                await send(lease)

    async def begin_all() -> list[Lease]:
        async with ahead.turn:
            left = await _begin(leases, begun, begin, on_lost, ahead, is_over)
        for _ in range(workers):
            begun.put_nowait(None)
        return left

    beginning = asyncio.create_task(begin_all())
    tasks: list[asyncio.Task[Any]] = [beginning, *(asyncio.create_task(send_each()) for _ in range(workers))]
    # No TaskGroup: it would raise an interruption once more where asyncio cancels what is left.
    try:
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what it raised, be it that a sink has cancelled itself
        return beginning.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not begun.empty():
            ahead.change(-(begun.get_nowait() is not None))


async def _begin(
    leases: Sequence[Lease],
    begun: asyncio.Queue[tuple[Lease, float] | None],
    begin: Callable[[Sequence[Lease]], Awaitable[set[LeaseKey]]],
    on_lost: Callable[[Lease], None],
    ahead: Ahead,
    is_over: Callable[[], bool],
) -> list[Lease]:
    """Put what is begun into the queue; return what was not begun."""
    at_once = 2 * ahead.width
    for start in range(0, len(leases), at_once):
        await ahead.wait_for_room()
        if is_over():
            return list(leases[start:])
        next_ones = leases[start : start + at_once]
        held = await begin(next_ones)
        begun_at = asyncio.get_running_loop().time()
        for lease in next_ones:
            if lease.key in held:
                ahead.change(1)
                begun.put_nowait((lease, begun_at))
            else:
                on_lost(lease)
    return []
