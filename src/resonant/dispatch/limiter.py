"""Limits on concurrent sends, in total and per endpoint, shared fairly."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ConcurrencyLimiter:
    """Limits concurrent sends in this process. A delivery that waits for a retry holds no slot.

    An endpoint uses at most its own limit, and at most the number of slots that stay free: one endpoint gets half of the
    total, two get a third each. So endpoints that never answer leave slots for others (the dynamic threshold of
    Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).

    Args:
        total: concurrent sends, at least 1.
        per_endpoint: concurrent sends to one endpoint, at least 1.
    """

    def __init__(self, total: int, per_endpoint: int) -> None:
        self._total = total
        self._per_endpoint = per_endpoint
        self._own_limit: dict[str, int] = {}
        self._in_use = 0
        self._used: Counter[str] = Counter()
        self._wanted: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def limit(self, endpoint: str, own: int | None) -> None:
        """Set an endpoint's own limit; None keeps the common one."""
        if own is not None:
            self._own_limit[endpoint] = own

    def share(self, endpoint: str) -> int:
        """Return how many slots this endpoint can expect while other endpoints also need slots."""
        others = len(self._wanted) - (endpoint in self._wanted)
        return min(self.limit_of(endpoint), max(1, self._total // (others + 2)))

    @asynccontextmanager
    async def hold(self, endpoint: str) -> AsyncIterator[None]:
        """Hold one slot. The waiters of an endpoint get slots in order of arrival."""
        self._wanted[endpoint] += 1
        try:
            await self._acquire(endpoint)
            try:
                yield
            finally:
                self._give_back(endpoint)
        finally:
            self._wanted[endpoint] -= 1
            if not self._wanted[endpoint]:
                del self._wanted[endpoint]

    async def _acquire(self, endpoint: str) -> None:
        if self._may_take(endpoint):
            self._take(endpoint)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(endpoint, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(endpoint)
            raise

    def limit_of(self, endpoint: str) -> int:
        """Return the maximum number of slots for this endpoint if it is the only one."""
        return min(self._own_limit.get(endpoint, self._per_endpoint), (self._total + 1) // 2)

    def _may_take(self, endpoint: str) -> bool:
        used = self._used[endpoint]
        return used < self.limit_of(endpoint) and used < self._total - self._in_use

    def _take(self, endpoint: str) -> None:
        self._used[endpoint] += 1
        self._in_use += 1

    def _give_back(self, endpoint: str) -> None:
        self._in_use -= 1
        self._used[endpoint] -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            # The endpoint that uses the fewest slots comes first; among equals, the one served longest ago.
            endpoint = min(filter(self._may_take, self._waiting), key=self._used.__getitem__, default=None)
            if endpoint is None:
                return
            queue = self._waiting.pop(endpoint)
            turn = queue.popleft()
            if queue:
                self._waiting[endpoint] = queue
            if not turn.done():  # the waiter may have been cancelled
                self._take(endpoint)
                turn.set_result(None)
