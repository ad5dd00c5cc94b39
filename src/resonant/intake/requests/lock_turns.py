"""Retries writes of locked events in turns, so that other events need not wait for them.

This matters only on PostgreSQL, where transactions lock events. On SQLite, all writers share one lock.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from resonant.errors import StillLocked
from resonant.store import Store

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

# How long a write waits for a lock: the first time, and at each later try.
GROUP_LOCK_SECONDS, LOCK_TRY_SECONDS = 0.1, 0.02
_MOST_AT_ONCE = 2  # of the connections to PostgreSQL
# Each try of a batch writes its events again, so the pause after a try is this many times its duration without the wait.
_PAUSES, _MOST_PAUSE_SECONDS = 10, 1.0
_WARN_SECONDS, _WARN_AGAIN_SECONDS = 2.0, 60.0


class LockTurns:
    """Runs the writes of one event loop with a short lock timeout, and retries those that time out in turns.

    The retries share two connections. Writes with the same key are retried one after the other, so that a client that repeats a
    locked event does not delay others.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._of_keys: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._warned_at = -math.inf

    def __contains__(self, key: Hashable) -> bool:
        """Return whether a write with this key waits."""
        # The traceback of a cancelled wait may keep the lock for a while.
        return (lock := self._of_keys.get(key)) is not None and lock.locked()

    async def write(self, key: Hashable, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run an operation; if it does not get its lock soon, retry it as ``write_in_turn`` does."""
        if key not in self:
            with suppress(StillLocked):
                return await self._store.write_soon(GROUP_LOCK_SECONDS, operation, *args, **kwargs)
        return await self.write_in_turn(key, operation, *args, **kwargs)

    async def write_in_turn(self, key: Hashable, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Retry an operation, in turns with the others, until it gets its lock.

        The caller may cancel it to bound the wait.

        Args:
            key: equal for writes of the same events.
            operation: writes them.
            args: its arguments after the connection.
            kwargs: its keyword arguments.
        """
        now = asyncio.get_running_loop().time
        began_at = now()
        async with self._of_keys.setdefault(key, asyncio.Lock()):
            while True:
                async with self._turns:
                    tried_at = now()
                    with suppress(StillLocked):
                        return await self._store.write_soon(LOCK_TRY_SECONDS, operation, *args, **kwargs)
                    worked = now() - tried_at - LOCK_TRY_SECONDS
                if now() > max(began_at + _WARN_SECONDS, self._warned_at + _WARN_AGAIN_SECONDS):
                    self._warned_at = now()
                    message = "%s: another transaction holds a lock on an event: requests with this event wait for it"
                    logger.warning(message, self._store)
                await asyncio.sleep(min(_PAUSES * worked, _MOST_PAUSE_SECONDS))
