"""Retries while a store is unreachable, or locked by another process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from resonant.errors import StoreLocked, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_RETRY_PAUSE_SECONDS = 0.5


async def retry_while_unavailable(
    operation: Callable[[], Awaitable[T]],
    patience: float,
    *,
    outlasts_locks: Callable[[], bool] = lambda: True,
) -> T:
    """Repeat an operation while the store is unreachable, or locked by another process.

    Args:
        operation: must be repeatable, even after a partial failure.
        patience: how long to retry during an outage, in seconds; earlier waits for a lock do not count.
        outlasts_locks: returns whether to wait for a lock without limit; otherwise a lock counts as an outage.

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
            is_lock = isinstance(error, StoreLocked)
            until = give_up_at.setdefault(is_lock, loop.time() + patience)
            is_outlasted = is_lock and outlasts_locks()
            if not is_outlasted and loop.time() + _RETRY_PAUSE_SECONDS > until:
                raise
        await asyncio.sleep(_RETRY_PAUSE_SECONDS)
