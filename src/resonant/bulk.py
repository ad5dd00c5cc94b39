"""The bulk lane: many deliveries sent as one piece of work, so that the network never waits for the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from resonant.events import Lease

# Twice as many are held in memory, each with its body, if there is one endpoint; of several, four times as many in all.
MAX_CHUNK_SIZE = 5_000


async def send_ahead(
    leases: Sequence[Lease],
    *,
    begin: Callable[[Sequence[Lease]], Awaitable[set[int]]],
    send: Callable[[Lease], Awaitable[None]],
    on_lost: Callable[[Lease], None],
    width: int,
    turn: asyncio.Lock,
    good_for: float,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Lease]:
    """Begin leases a few ahead of need, and send them.

    A crash is charged to what had begun: of all chunks that take turns, at most four times ``width`` at any moment.

    Args:
        leases: what to send, in this order.
        begin: notes in the store that sends are about to start; returns the delivery ids that are still held.
        send: makes one attempt; it is called with up to ``width`` leases at the same time.
        on_lost: told of each lease that is not held any more; nothing is sent for it.
        width: at least 1.
        turn: held while there is more to begin, so that of several chunks to an endpoint one begins after the other.
        good_for: how many seconds after it began a lease may be sent without asking again whether it is still held.
        is_over: asked before more is begun; once it says so, no more is.

    Returns:
        Those that were not begun, since it was over.

    Raises:
        Exception: whatever ``begin`` or ``send`` raised first; what is being sent is then cancelled.
    """
    begun: asyncio.Queue[tuple[Lease, float] | None] = asyncio.Queue(width)
    now = asyncio.get_running_loop().time

    async def send_each() -> None:
        while (next_one := await begun.get()) is not None:
            lease, begun_at = next_one
            # This process may have stood still for longer than the lease went on.
            if now() - begun_at > good_for and not await begin([lease]):
                on_lost(lease)
            else:
                await send(lease)

    async def begin_all() -> list[Lease]:
        async with turn:
            left = await _begin(leases, begun, begin, on_lost, is_over)
        for _ in range(width):
            await begun.put(None)
        return left

    beginning = asyncio.create_task(begin_all())
    tasks: list[asyncio.Task[Any]] = [beginning, *(asyncio.create_task(send_each()) for _ in range(width))]
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


async def _begin(
    leases: Sequence[Lease],
    begun: asyncio.Queue[tuple[Lease, float] | None],
    begin: Callable[[Sequence[Lease]], Awaitable[set[int]]],
    on_lost: Callable[[Lease], None],
    is_over: Callable[[], bool],
) -> list[Lease]:
    """Put what is begun into the queue, and wait while it is full; return what was not begun."""
    for start in range(0, len(leases), begun.maxsize):
        if is_over():
            return list(leases[start:])
        next_ones = leases[start : start + begun.maxsize]
        held = await begin(next_ones)
        begun_at = asyncio.get_running_loop().time()
        for lease in next_ones:
            if lease.delivery_id in held:
                await begun.put((lease, begun_at))
            else:
                on_lost(lease)
    return []
