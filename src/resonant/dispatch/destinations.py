"""The endpoints of a run, each opened on first use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resonant.dispatch.bulk import PrefetchWindow
from resonant.errors import EndpointError
from resonant.store.views import endpoints

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from resonant.delivery.attempt import Destination
    from resonant.dispatch.limiter import ConcurrencyLimiter
    from resonant.dispatch.rate import RateLimiter
    from resonant.dispatch.secret_rotation import Signing
    from resonant.store import WorkerStore

# The pause before a run tries again to open an endpoint, in seconds.
REOPEN_SECONDS = 30.0
# How long a look waits for endpoints to open; after that, they are opened in the background.
_OPEN_SECONDS = 0.25
# Prefect's client may retry for longer, and then notice late that its server is back.
_GIVE_UP_SECONDS = 60.0


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
        store: WorkerStore,
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
        self._opening: dict[str, asyncio.Task[None]] = {}

    def __getitem__(self, name: str) -> Destination:
        return self._opened[name]

    @property
    def is_opening(self) -> bool:
        """Whether endpoints are being opened."""
        return bool(self._opening)

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
        self._begin_to_open([name])
        if opening := self._opening.get(name):
            await asyncio.wait([opening])
        self._raise_errors()
        return name in self._opened

    async def open_of(self, names: Sequence[str]) -> list[str]:
        """Return the open endpoints among these; open the rest, in the background if that takes long.

        Prefect's server has their configuration, and may be unavailable for minutes.
        """
        if begun := self._begin_to_open(names):
            await asyncio.wait(begun, timeout=_OPEN_SECONDS)
        self._raise_errors()
        return [name for name in names if name in self._opened]

    def _begin_to_open(self, names: Sequence[str]) -> list[asyncio.Task[None]]:
        """Begin to open those that are not open, not being opened, and did not fail recently; return the new tasks."""
        now = asyncio.get_running_loop().time()
        new = [
            name
            for name in names
            if name not in self._opened
            and name not in self._opening
            and now >= self._reopen_at.get(name, 0.0)
        ]
        if not new:
            return []
        announcing = asyncio.create_task(self._announce(new))
        begun = {name: asyncio.create_task(self._open(name, announcing)) for name in new}
        self._opening |= begun
        return list(begun.values())

    async def _announce(self, names: Sequence[str]) -> set[str]:
        """Announce endpoints in one transaction, since hundreds may be opened at once; return those with a noted problem."""
        await self._signing.announce(names)
        return await self._store.read(endpoints.with_problems)

    def _raise_errors(self) -> None:
        """Remove finished tasks; raise the error of one that failed."""
        finished = {name: opening for name, opening in self._opening.items() if opening.done()}
        for name in finished:
            del self._opening[name]
        errors = [opening.exception() for opening in finished.values() if not opening.cancelled()]
        if error := next(filter(None, errors), None):
            raise error

    async def _open(self, name: str, announcing: asyncio.Task[set[str]]) -> None:
        had_problem = name in await announcing
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                destination = await self._open_destination(name)
        except Exception as error:  # noqa: BLE001 - a problem with one endpoint must not stop the others
            reason = self._problems[name] = _why_not_open(name, error)
            self._reopen_at[name] = asyncio.get_running_loop().time() + REOPEN_SECONDS
            await self._signing.withdraw(name)
            await self._store.write(endpoints.note_problem, name, reason, now=self._store.clock())
            return
        self._opened[name] = destination
        self._limiter.limit(name, destination.concurrency)
        self.rates.limit(name, destination.rate, width=self._limiter.limit_of(name))
        self._windows[name] = PrefetchWindow(self._limiter.limit_of(name))
        self._signing.follow(name, destination.rotation)
        self._problems.pop(name, None)
        if had_problem:
            await self._store.write(endpoints.clear_problem, name)

    async def close(self) -> None:
        """Close every endpoint, even if closing one fails."""
        for opening in self._opening.values():
            opening.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        closing = [destination.close() for destination in self._opened.values()]
        await asyncio.gather(*closing, return_exceptions=True)


def _why_not_open(name: str, error: Exception) -> str:
    # Only EndpointError is known to contain no secret.
    if isinstance(error, EndpointError):
        return str(error)
    return f"endpoint {name!r} cannot be opened: {type(error).__name__}"
