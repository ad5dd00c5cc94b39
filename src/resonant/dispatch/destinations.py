"""The endpoints of a run, each opened on first use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resonant.dispatch.bulk import PrefetchWindow
from resonant.errors import EndpointError
from resonant.store import endpoints

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resonant.delivery.attempt import Destination
    from resonant.dispatch.limiter import ConcurrencyLimiter
    from resonant.dispatch.rate import RateLimiter
    from resonant.dispatch.secret_rotation import Signing
    from resonant.store import Store

# The pause before a run tries again to open an endpoint, in seconds.
REOPEN_SECONDS = 30.0


class Destinations:
    """Opens endpoints and keeps them open.

    Args:
        store: records problems with endpoints.
        open_destination: opens an endpoint by name; an error delays only that endpoint's deliveries.
        limiter: enforces each endpoint's limit of concurrent sends.
        rates: enforces each endpoint's rate.
        signing: reports the rotation of each endpoint's secret.
        problems: the reasons why endpoints cannot be opened, keyed by name; updated by this class.

    Attributes:
        rates: the rate limiter.
    """

    def __init__(
        self,
        store: Store,
        open_destination: Callable[[str], Awaitable[Destination]],
        *,
        limiter: ConcurrencyLimiter,
        rates: RateLimiter,
        signing: Signing,
        problems: dict[str, str],
    ) -> None:
        self._store = store
        self._open_destination = open_destination
        self._limiter = limiter
        self.rates = rates
        self._signing = signing
        self._problems = problems
        self._opened: dict[str, Destination] = {}
        self._windows: dict[str, PrefetchWindow] = {}
        self._reopen_at: dict[str, float] = {}

    def __getitem__(self, name: str) -> Destination:
        return self._opened[name]

    def window(self, name: str) -> PrefetchWindow:
        """Return the prefetch window that all chunks to an endpoint share."""
        return self._windows[name]

    async def open(self, name: str) -> None:
        """Open an endpoint if it is not open yet.

        Raises:
            EndpointError: it cannot be opened.
        """
        if not await self.is_open(name):
            raise EndpointError(self._problems[name])

    async def is_open(self, name: str) -> bool:
        """Open an endpoint if it is not open yet; return whether it is open."""
        if name in self._opened:
            return True
        if asyncio.get_running_loop().time() < self._reopen_at.get(name, 0.0):
            return False
        await self._signing.announce(name)
        try:
            destination = await self._open_destination(name)
        except Exception as error:  # noqa: BLE001 - a problem with one endpoint must not stop the others
            reason = self._problems[name] = _why_not_open(name, error)
            self._reopen_at[name] = asyncio.get_running_loop().time() + REOPEN_SECONDS
            await self._signing.withdraw(name)
            await self._store.write(endpoints.note_problem, name, reason, now=self._store.clock())
            return False
        self._opened[name] = destination
        self._limiter.limit(name, destination.concurrency)
        self.rates.limit(name, destination.rate, width=self._limiter.limit_of(name))
        self._windows[name] = PrefetchWindow(self._limiter.limit_of(name))
        self._signing.follow(name, destination.rotation)
        self._problems.pop(name, None)
        await self._store.write(endpoints.clear_problem, name)
        return True

    async def close(self) -> None:
        """Close every endpoint, even if closing one fails."""
        closing = [destination.close() for destination in self._opened.values()]
        await asyncio.gather(*closing, return_exceptions=True)


def _why_not_open(name: str, error: Exception) -> str:
    # Only EndpointError is known to contain no secret.
    if isinstance(error, EndpointError):
        return str(error)
    return f"endpoint {name!r} cannot be opened: {type(error).__name__}"
