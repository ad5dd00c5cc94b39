"""Opens the endpoints of a run, each on first use."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from math import inf

from sqlalchemy import Connection

from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.errors import EndpointError, NotReady
from resonant.store import WorkerStore
from resonant.store.views import endpoint_problems
from resonant.store.views.known_names import known_endpoints, remember_endpoints

# The first and the longest pause before a run tries again to open an endpoint, in seconds; each is twice the one before.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
# How many endpoints a look retries, so that thousands that cannot be opened do not delay the others.
_MOST_TRIED_AGAIN = 100
# A run waits for a token only if the next request for it is due within this time, in seconds.
_WAIT_SECONDS = 30.0
# How long a look waits for endpoints to open; after that, they are opened in the background.
_OPEN_SECONDS = 0.25
# Prefect's client may retry for longer, and then notice late that its server is back.
_GIVE_UP_SECONDS = 60.0


class Endpoints:
    """Opens endpoints and keeps them open.

    Args:
        store: records problems with endpoints.
        open_endpoint: opens an endpoint by name; an error delays only that endpoint's deliveries.

    Attributes:
        opened: the open endpoints, keyed by name.
        problems: the reasons why endpoints cannot be opened or sent to, keyed by name.
    """

    def __init__(
        self,
        store: WorkerStore,
        open_endpoint: Callable[[str], Awaitable[EndpointRun]],
        opened: dict[str, EndpointRun],
    ) -> None:
        self.opened = opened
        self.problems: dict[str, str] = {}
        self._store = store
        self._open_endpoint = open_endpoint
        self._pauses: dict[str, float] = {}  # the last pauses of endpoints that cannot be opened
        self._reopen_at: dict[str, float] = {}
        # The recorded problems, those to be recorded, and the endpoints that were opened since the last record.
        self._noted: dict[str, str] = {}
        self._to_note: dict[str, str] = {}
        self._new: set[str] = set()
        # The tasks that open endpoints, or wait until open ones can be sent to.
        self._opening: dict[str, asyncio.Task[None]] = {}

    @property
    def is_opening(self) -> bool:
        """Whether endpoints are being opened, or can soon be sent to."""
        return bool(self._opening)

    async def open(self, name: str) -> EndpointRun:
        """Return an endpoint; open it if it is not open yet.

        Raises:
            EndpointError: it cannot be opened.
        """
        if not await self.is_open(name):
            raise EndpointError(self.problems[name])
        return self.opened[name]

    async def is_open(self, name: str) -> bool:
        """Open an endpoint if it is not open yet; return whether it is open."""
        self._begin_to_open([name])
        if name not in self.opened and (opening := self._opening.get(name)):
            await asyncio.wait([opening])
        self._raise_errors()
        await self._record([name])
        return name in self.opened

    async def open_each(self, names: Iterable[str]) -> list[EndpointRun]:
        """Return those of these endpoints that can be sent to; prepare the rest, in the background if that takes long.

        Prefect's server has their configuration, and may be unavailable for minutes. So may be proxies, and the servers of tokens.
        """
        names = list(names)
        if begun := self._begin_to_open(names):
            await asyncio.wait(begun, timeout=_OPEN_SECONDS)
        self._raise_errors()
        if begun := self._begin_to_prepare(names):
            await asyncio.wait(begun, timeout=_OPEN_SECONDS)
        await self._record(names)
        found = [self.opened[name] for name in names if name in self.opened]
        return [endpoint for endpoint in found if endpoint.is_ready()]

    async def try_saved(self) -> None:
        """Let the next look retry endpoints whose problems another process has removed: it has saved or opened them."""
        if closed := self._pauses.keys() & self._noted.keys():
            for name in closed - await self._store.read(endpoint_problems.with_problems):
                for known in (self._noted, self._pauses, self._reopen_at):
                    known.pop(name, None)

    def _note(self, name: str, problem: str) -> None:
        """Keep the reason why nothing can be sent to an endpoint for the next record."""
        if problem != self._noted.get(name):
            self._to_note[name] = problem

    async def _record(self, names: Iterable[str]) -> None:
        """Record new problems, and remove those of these endpoints that have ended.

        Each step is one transaction, since hundreds of endpoints may share a proxy or a token server, or be opened at once.
        """
        if new := self._new.copy():
            with_problems, known = await self._store.read(_noted)
            self._noted |= dict.fromkeys(with_problems & new, "")
            if unknown := new - known:
                await self._store.write(remember_endpoints, unknown)
            self._new -= new
        if begun := self._to_note.copy():
            noted = await self._store.write(endpoint_problems.note_problems, begun, now=self._store.clock())
            self._noted |= {name: begun[name] for name in noted}
            self._to_note = {name: why for name, why in self._to_note.items() if why != begun.get(name)}
        if ended := [name for name in names if name in self._noted and self._is_ready(name)]:
            await self._store.write(endpoint_problems.clear_problems, ended)
            for name in ended:
                self._noted.pop(name, None)
                self.problems.pop(name, None)

    def _is_ready(self, name: str) -> bool:
        return name in self.opened and self.opened[name].is_ready()

    def _begin_to_open(self, names: Iterable[str]) -> list[asyncio.Task[None]]:
        """Begin to open those that are not open, not being opened, and did not fail recently; return the new tasks."""
        now, at = asyncio.get_running_loop().time(), self._reopen_at
        closed = [name for name in names if name not in self.opened and name not in self._opening]
        again = sorted((name for name in closed if at.get(name, inf) <= now), key=at.__getitem__)
        chosen = [*(name for name in closed if name not in at), *again[:_MOST_TRIED_AGAIN]]
        begun = {name: asyncio.create_task(self._open(name)) for name in chosen}
        self._opening |= begun
        return list(begun.values())

    def _begin_to_prepare(self, names: Iterable[str]) -> list[asyncio.Task[None]]:
        """Begin to prepare the open endpoints that cannot be sent to, unless that failed recently."""
        now = asyncio.get_running_loop().time()
        begun = {
            name: asyncio.create_task(self._prepare(endpoint))
            for name in names
            if (endpoint := self.opened.get(name)) is not None
            and name not in self._opening
            and now >= self._reopen_at.get(name, 0.0)
            and not (endpoint.stops() or endpoint.is_ready())
        }
        self._opening |= begun
        return list(begun.values())

    async def _prepare(self, endpoint: EndpointRun) -> None:
        """Wait until an endpoint can be sent to, unless the next try is due much later."""
        name, prepare = endpoint.name, endpoint.destination.prepare
        while prepare is not None:
            try:
                await prepare()
            except NotReady as missing:
                self._note(name, str(missing))
                if missing.wait > _WAIT_SECONDS or endpoint.stops():
                    self.problems[name] = str(missing)
                    self._reopen_at[name] = asyncio.get_running_loop().time() + missing.wait
                    return
                await asyncio.sleep(missing.wait)
            else:
                self._to_note.pop(name, None)
                return

    def _raise_errors(self) -> None:
        """Remove finished tasks; raise the error of one that failed."""
        done = [name for name, opening in self._opening.items() if opening.done()]
        finished = [self._opening.pop(name) for name in done]
        errors = [opening.exception() for opening in finished if not opening.cancelled()]
        if error := next(filter(None, errors), None):
            raise error

    async def _open(self, name: str) -> None:
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                endpoint = await self._open_endpoint(name)
        except Exception as error:  # noqa: BLE001 - a problem with one endpoint must not stop the others
            reason = self.problems[name] = _why_not_open(name, error)
            self._note(name, reason)
            pause = min(2 * self._pauses.get(name, _FIRST_PAUSE_SECONDS / 2), _LONGEST_PAUSE_SECONDS)
            self._pauses[name] = pause
            self._reopen_at[name] = asyncio.get_running_loop().time() + pause
            return
        self.opened[name] = endpoint
        self._new.add(name)
        for closed in (self.problems, self._to_note, self._pauses, self._reopen_at):
            closed.pop(name, None)

    async def close(self) -> None:
        """Close every endpoint, even if closing one fails."""
        for opening in self._opening.values():
            opening.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        closing = [endpoint.destination.close() for endpoint in self.opened.values()]
        await asyncio.gather(*closing, return_exceptions=True)


def _noted(connection: Connection) -> tuple[set[str], set[str]]:
    """Return the endpoints with problems, and those that the store knows."""
    return endpoint_problems.with_problems(connection), known_endpoints(connection)


def _why_not_open(name: str, error: Exception) -> str:
    # Only EndpointError is known to contain no secret.
    if isinstance(error, EndpointError):
        return str(error)
    return f"endpoint {name!r} cannot be opened: {type(error).__name__}"
