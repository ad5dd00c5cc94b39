"""Finds the endpoints with due deliveries."""

import asyncio
import math
from dataclasses import dataclass, field

from resonant.dispatch.claim import poll_times
from resonant.dispatch.claim.due_bounds import DueBounds
from resonant.dispatch.claim.leases import TakeOver
from resonant.dispatch.endpoints import Endpoints
from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.dispatch.gate_rows import GateRows
from resonant.store import WorkerStore


@dataclass(slots=True)
class Found:
    """The result of a look.

    Attributes:
        due: the open endpoints with due deliveries.
        held: those of them whose gates hold all their due deliveries.
        claimable: the others, until there is nothing more to claim from them; the values are unused.
        deferred: those to claim from once their deliveries in flight have ended.
        overdue: for how long the endpoints' earliest due deliveries are overdue, in seconds, by name.
        next_due_in: when the next delivery is due, in seconds.
        took: the duration of the look in seconds, without the time in which it only waited for endpoints to open.
    """

    due: list[EndpointRun] = field(default_factory=list)
    held: set[EndpointRun] = field(default_factory=set)
    claimable: dict[EndpointRun, None] = field(default_factory=dict)
    deferred: set[EndpointRun] = field(default_factory=set)
    overdue: dict[str, float] = field(default_factory=dict)
    next_due_in: float = math.inf
    took: float = 0.0


@dataclass(slots=True, eq=False)
class Lookout:
    """Looks for due deliveries, and remembers which endpoints have new work.

    Attributes:
        store: the store to look into.
        only: the only endpoint to look at; None for all.
        endpoints: opens each endpoint with due deliveries.
        gates: the rows of their gates.
        take_over: rescues expired leases before a look.
        bounds: from when on to search for due deliveries.
        woken_for: the endpoints with new work since the last poll or named claim; None if unknown.
    """

    store: WorkerStore
    only: str | None
    endpoints: Endpoints
    gates: GateRows
    take_over: TakeOver
    bounds: DueBounds = field(init=False)
    woken_for: frozenset[str] | None = frozenset()
    _hears_commits: bool = False

    def __post_init__(self) -> None:
        self.bounds = DueBounds(poll_times.POLL_SECONDS, asyncio.get_running_loop().time)

    @property
    def is_woken(self) -> bool:
        """Whether there was a commit since the last look."""
        return self.woken_for != frozenset()

    @property
    def may_look_early(self) -> bool:
        """Whether a commit calls for an early poll. A run for one endpoint needs none: that endpoint is busy."""
        return self.is_woken and self.only is None

    def wake(self, endpoints: frozenset[str] | None) -> None:
        """Note a commit of new work for these endpoints; None if they are unknown."""
        self._hears_commits = True
        if endpoints is None or self.woken_for is None:
            self.woken_for = None
        else:
            self.woken_for |= endpoints if self.only is None else endpoints & {self.only}

    async def open_named(self, names: frozenset[str]) -> list[EndpointRun]:
        """Return the open endpoints among the named ones; none if a gate governs one of them, since that needs a poll."""
        self.woken_for = frozenset()
        self.bounds.add(names)
        endpoints = await self.endpoints.open_each(sorted(names))
        return [] if any(each.takes_turns() for each in endpoints) else endpoints

    async def look(self, ahead: float) -> Found:
        """Find the endpoints with due deliveries, and open new ones.

        Args:
            ahead: for how long from now to look for the next due delivery, in seconds.
        """
        loop = asyncio.get_running_loop()
        woken_for, self.woken_for = self.woken_for, frozenset()
        began_at = loop.time()
        if woken_for is None:
            await self.endpoints.try_saved()
        await self.take_over.rescue_if_due()
        now, looked_at = self.store.clock(), loop.time()
        bounds = self.bounds.of_next_look(woken_for if self._hears_commits else None)
        found, rows = await self.store.look(self.only, bounds=bounds, until=now + ahead)
        self.bounds.note(found, bounds=bounds, at=now, seconds=loop.time() - looked_at)
        self.gates.rows = rows  # for the endpoints that are opened now
        opening_at = loop.time()
        due = await self.endpoints.open_each([due.endpoint for due in found if due.at <= now])
        opening_took = loop.time() - opening_at
        await self.gates.update(rows, due)
        types = {each.endpoint: each.held for each in found}
        # In the order of `due`, which no hash changes.
        held = dict.fromkeys(endpoint for endpoint in due if endpoint.holds_all(types[endpoint.name]))
        self.gates.connect(held)
        return Found(
            due,
            set(held),
            claimable=dict.fromkeys(endpoint for endpoint in due if endpoint not in held),
            overdue={due.endpoint: now - due.at for due in found},
            next_due_in=min((due.at - now for due in found if due.at > now), default=math.inf),
            took=loop.time() - began_at - opening_took,
        )
