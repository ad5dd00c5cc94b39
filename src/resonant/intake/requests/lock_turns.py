"""Writes of events that another transaction has locked wait in turns, so that no other event waits for them.

Only on PostgreSQL: there, transactions lock events. On SQLite, all writers share one lock.
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

# How long a write waits for a lock if others wait for it, and how long at each try alone.
GROUP_LOCK_SECONDS, LOCK_TRY_SECONDS = 0.1, 0.02
_MOST_AT_ONCE = 2  # of the connections to PostgreSQL
# Each try of a batch writes its events again. So the pause after a try is a multiple of the time that it took, without the wait.
_PAUSES, _MOST_PAUSE_SECONDS = 10, 1.0
_WARN_SECONDS, _WARN_AGAIN_SECONDS = 2.0, 60.0


class LockTurns:
    """Runs the writes of one event loop with a short wait for locks; writes that must wait longer take turns.

    Waiting writes share two connections, and those with the same key share one place, so that a client that repeats a locked event
    does not delay others.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._of_keys: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._warned_at = -math.inf

    def __contains__(self, key: Hashable) -> bool:
        """Return whether a write with this key waits."""
        return key in self._of_keys

    async def write(self, key: Hashable, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run an operation at once, or in turns if it has to wait for a lock; see ``write_in_turn``."""
        if key not in self:
            with suppress(StillLocked):
                return await self._store.write_soon(GROUP_LOCK_SECONDS, operation, *args, **kwargs)
        return await self.write_in_turn(key, operation, *args, **kwargs)

    async def write_in_turn(self, key: Hashable, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run an operation again and again, in turns with the others that wait, until it gets its lock.

        The caller bounds the wait: it may cancel it.

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
