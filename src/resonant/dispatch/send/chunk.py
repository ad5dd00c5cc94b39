"""Sends the deliveries of a chunk, and begins a few in the store ahead of their sends, so that these do not wait for it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager

from resonant.dispatch.limiting.ahead import PrefetchWindow
from resonant.dispatch.send.admission import Held
from resonant.events import Clock, Lease, LeaseKey


async def send_ahead(
    leases: deque[Lease],
    *,
    begin: Callable[[Sequence[Lease]], Awaitable[set[LeaseKey]]],
    place: Callable[[LeaseKey], AbstractAsyncContextManager[object]],
    send: Callable[[Lease, float], Awaitable[None]],
    on_lost: Callable[[Lease], None],
    on_left: Callable[[Sequence[Lease]], None],
    window: PrefetchWindow,
    clock: Clock,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Send deliveries, and begin a few in the store ahead of their sends. No lease, with its body, is kept after its send.

    Args:
        leases: the leases to send, in order; emptied as they begin.
        begin: records in the store that sends are about to start; returns the leases that are still held.
        place: returns a place on the wire; entering its context waits for a free one, or raises ``Held``.
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
    # The begun leases with their times, and None at the end.
    begun: asyncio.Queue[tuple[Lease, float] | None] = asyncio.Queue()
    number_ahead = 0

    def change(by: int) -> None:
        nonlocal number_ahead
        number_ahead += by
        window.change(by)

    async def begin_all() -> None:
        async with window.turn:
            while leases:
                await window.wait_for_room(is_over)
                if is_over():
                    break
                next_ones = [leases.popleft() for _ in range(min(window.at_once, len(leases)))]
                begun_at = clock()
                held = await begin(next_ones)
                for lease in next_ones:
                    if lease.key in held:
                        change(1)
                        begun.put_nowait((lease, begun_at))
                    else:
                        on_lost(lease)
                next_ones.clear()
        begun.put_nowait(None)
        on_left(leases)

    async def send_each() -> None:
        while (next_one := await begun.get()) is not None:
            lease, begun_at = next_one
            try:
                async with place(lease.key):
                    change(-1)
                    await send(lease, begun_at)
            except Held:
                change(-1)
                on_left([lease])
            del next_one, lease
        begun.put_nowait(None)  # for the next sender

    try:
        senders = (send_each() for _ in range(min(window.width, len(leases))))
        await all_of([begin_all(), *senders])
    finally:
        change(-number_ahead)  # those that will not be sent any more


async def all_of(works: Iterable[Awaitable[None]]) -> None:
    """Run these concurrently; on the first error, cancel the others and raise it."""
    # Not a TaskGroup: it would raise an interruption again when asyncio cancels the remaining tasks.
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
