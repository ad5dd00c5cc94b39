"""Sends the deliveries of a chunk, and begins a few in the store ahead of their sends, so that these do not wait for it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from resonant.dispatch.limiting.ahead import PrefetchWindow
from resonant.events import Clock, LeaseKey


class _WithKey(Protocol):
    @property
    def key(self) -> LeaseKey: ...


F = TypeVar("F", bound=_WithKey)


async def send_ahead(
    flights: deque[F],
    *,
    begin: Callable[[Sequence[F]], Awaitable[set[LeaseKey]]],
    admit: Callable[[F], Awaitable[bool]],
    send: Callable[[F, float], Awaitable[None]],
    on_lost: Callable[[F], None],
    on_left: Callable[[Sequence[F]], None],
    window: PrefetchWindow,
    clock: Clock,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Send deliveries, and begin a few in the store ahead of their sends. No flight, with its body, is kept after its send.

    Args:
        flights: the flights to send, in order; emptied as they begin.
        begin: records in the store that sends are about to start; returns the leases that are still held.
        admit: waits for a place; returns whether the flight got one.
        send: makes one attempt in the flight's place, given the time at which it began; up to ``window.width`` calls run
            concurrently.
        on_lost: called with each flight whose lease this process lost; it is not sent.
        on_left: called with the flights that were not begun because the run ended.
        window: shared by all chunks to the same endpoint, which begin one after the other.
        clock: tells when each delivery began.
        is_over: returns whether to stop beginning sends.

    Raises:
        Exception: the first error of ``begin`` or ``send``; the other sends are cancelled.
    """
    # The begun flights with their times, and None at the end.
    begun: asyncio.Queue[tuple[F, float] | None] = asyncio.Queue()
    number_ahead = 0

    def change(by: int) -> None:
        nonlocal number_ahead
        number_ahead += by
        window.change(by)

    async def begin_all() -> None:
        async with window.turn:
            while flights:
                await window.wait_for_room(is_over)
                if is_over():
                    break
                next_ones = [flights.popleft() for _ in range(min(window.at_once, len(flights)))]
                begun_at = clock()
                held = await begin(next_ones)
                for flight in next_ones:
                    if flight.key in held:
                        change(1)
                        begun.put_nowait((flight, begun_at))
                    else:
                        on_lost(flight)
                next_ones.clear()
        begun.put_nowait(None)
        on_left(flights)

    async def send_each() -> None:
        while (next_one := await begun.get()) is not None:
            flight, begun_at = next_one
            is_admitted = await admit(flight)
            change(-1)
            if is_admitted:
                await send(flight, begun_at)
            del next_one, flight
        begun.put_nowait(None)  # for the next sender

    try:
        senders = (send_each() for _ in range(min(window.width, len(flights))))
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
