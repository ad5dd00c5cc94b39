"""Retries while a store is unreachable, or locked by another process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from resonant.errors import StoreLocked, StoreUnavailable

T = TypeVar("T")

_RETRY_PAUSE_SECONDS = 0.5


def is_lock(error: StoreUnavailable) -> bool:
    """Return whether another process holds a lock, which may take long, but ends."""
    return isinstance(error, StoreLocked)


async def retry_while_unavailable(
    operation: Callable[[], Awaitable[T]],
    patience: float,
    *,
    outlasts: Callable[[StoreUnavailable], bool] = is_lock,
) -> T:
    """Repeat an operation while the store is unreachable, or locked by another process.

    Args:
        operation: must be repeatable, even after a partial failure.
        patience: how long to retry during an outage, in seconds; earlier waits for a lock do not count.
        outlasts: returns whether to go on waiting after that time, given the error. By default only for a lock.

    Raises:
        StoreUnavailable: the store did not recover in time.
    """
    loop = asyncio.get_running_loop()
    give_up_at: dict[bool, float] = {}
    while True:
        try:
            return await operation()
        except StoreUnavailable as error:
            # Count from the first failure: a suspended process notices only then that its connection was closed.
            until = give_up_at.setdefault(is_lock(error), loop.time() + patience)
            if loop.time() + _RETRY_PAUSE_SECONDS > until and not outlasts(error):
                raise
        await asyncio.sleep(_RETRY_PAUSE_SECONDS)
