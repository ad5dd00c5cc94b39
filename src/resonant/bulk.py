"""The bulk lane: many deliveries sent as one piece of work, so that the network never waits for the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from resonant.events import Lease

# Twice as many are held in memory, each with its body.
MAX_CHUNK_SIZE = 5_000


async def send_ahead(
    leases: Sequence[Lease],
    *,
    begin: Callable[[Sequence[Lease]], Awaitable[set[int]]],
    send: Callable[[Lease], Awaitable[None]],
    on_lost: Callable[[Lease], None],
    width: int,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Lease]:
    """Begin leases a few ahead of need, and send them.

    A crash is charged to what had begun, and that is at most five times ``width`` at any moment.

    Args:
        leases: what to send, in this order.
        begin: notes in the store that sends are about to start; returns the delivery ids that are still held.
        send: makes one attempt; it is called with up to ``width`` leases at the same time.
        on_lost: told of each lease that is not held any more; nothing is sent for it.
        width: at least 1.
        is_over: asked before more is begun; once it says so, no more is.

    Returns:
        Those that were not begun, since it was over.

    Raises:
        Exception: whatever ``begin`` or ``send`` raised first; what is being sent is then cancelled.
    """
    begun: asyncio.Queue[Lease | None] = asyncio.Queue(2 * width)

    async def send_each() -> None:
        while (lease := await begun.get()) is not None:
            await send(lease)

    beginning = asyncio.create_task(_begin(leases, begun, begin, on_lost, is_over, width))
    tasks: list[asyncio.Task[Any]] = [beginning, *(asyncio.create_task(send_each()) for _ in range(width))]
    # No TaskGroup: it would raise an interruption once more where asyncio cancels what is left.
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()  # raises what it raised
        return beginning.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _begin(
    leases: Sequence[Lease],
    begun: asyncio.Queue[Lease | None],
    begin: Callable[[Sequence[Lease]], Awaitable[set[int]]],
    on_lost: Callable[[Lease], None],
    is_over: Callable[[], bool],
    width: int,
) -> list[Lease]:
    """Put what is begun into the queue, wait while it is full, and say the end; return what was not begun."""
    left: list[Lease] = []
    for start in range(0, len(leases), begun.maxsize):
        if is_over():
            left = list(leases[start:])
            break
        next_ones = leases[start : start + begun.maxsize]
        held = await begin(next_ones)
        for lease in next_ones:
            if lease.delivery_id in held:
                await begun.put(lease)
            else:
                on_lost(lease)
    for _ in range(width):
        await begun.put(None)
    return left
