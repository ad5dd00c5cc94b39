"""Caches small collections of the store, and reads each at most ten times a second."""

import asyncio
import math
import time
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from sqlalchemy import Connection

from resonant.events import Clock
from resonant.store import Store

Names = TypeVar("Names", bound=Collection[str])
_OLDEST_SECONDS, _NEWEST_SECONDS = 1.0, 0.1


class Recent(Generic[Names]):
    """A cached collection of the store, at most a second old.

    Args:
        store: has the collection.
        read: reads it.
        clock: never goes back, in seconds.
    """

    def __init__(
        self, store: Store, read: Callable[[Connection], Names], *, clock: Clock = time.monotonic
    ) -> None:
        self._store = store
        self._read = read
        self._clock = clock
        self._found: Names | None = None
        self._read_at = -math.inf
        self._reading = asyncio.Lock()

    async def holding(self, name: str) -> Names:
        """Return the collection; read it again first if it lacks this name.

        Raises:
            StoreError: it cannot be read.
        """
        now = self._clock()
        found = await self._since(now - _OLDEST_SECONDS)
        return found if name in found else await self._since(now)

    async def _since(self, moment: float) -> Names:
        if self._found is not None and self._read_at > moment:
            return self._found
        async with self._reading:
            if self._found is None or self._read_at <= moment:
                await asyncio.sleep(max(0.0, self._read_at + _NEWEST_SECONDS - self._clock()))
                began_at = self._clock()
                self._found = await self._store.read(self._read)
                self._read_at = began_at
            return self._found
