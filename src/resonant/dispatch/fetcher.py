"""Claims deliveries for a run: ahead of need, fairly between endpoints, within a memory limit."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from resonant.errors import StoreError
from resonant.store.rescue import ExpiryWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from resonant.dispatch.destinations import Destinations
    from resonant.dispatch.gatekeeper import Gatekeeper
    from resonant.dispatch.heartbeat import LeaseHeartbeat
    from resonant.dispatch.in_flight import InFlight
    from resonant.events import Lease
    from resonant.store import Store

# The longest time between two polls, in case a wake-up was lost; a poll costs a millisecond.
POLL_SECONDS = 0.25
# The shortest time between a poll and an early one that a commit causes while deliveries are being sent. On SQLite, the run's
# own commits also cause early polls. Shorter intervals would make smaller chunks in the bulk lane. The interval is also at least
# ten times the duration of a poll, so that early polls take at most a tenth of the time.
_EARLY_POLL_SECONDS = 0.1
_EARLY_POLL_SHARE = 0.1
# The shortest waits for the next parked delivery. In the bulk lane, deliveries due soon after it join its chunk.
_SHORTEST_WAIT_SECONDS = 0.02
_SHORTEST_WAIT_FOR_CHUNK_SECONDS = 0.05
# How often expired leases are rescued, which takes the store's write lock.
RESCUE_SECONDS = 1.0
# How often accepted events and tallies are folded. Readers add up unfolded counts; each fold costs a few milliseconds.
FOLD_SECONDS = 5.0
# How long the last fold of a run may take.
_LAST_FOLD_SECONDS = 1.0
# The maximum total size of the bodies that a run holds. Twice the number of concurrent sends is always allowed.
MOST_BYTES = 64 * 1024 * 1024


class _Room(NamedTuple):
    """The limits of a claim: the number of deliveries, and the total size of their bodies (None for no limit)."""

    number: int
    most_bytes: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a run's claims.

    Attributes:
        owner: the owner of the leases.
        endpoint: the only endpoint to claim from; None for all.
        take_over: whether to take over expired leases, and to wait for live ones to end.
        chunk_size: deliveries per chunk; 0 if each is sent alone.
        on_waiting: called once if other workers hold the remaining deliveries, with the end of their last lease.
    """

    owner: str
    endpoint: str | None
    take_over: bool
    chunk_size: int
    on_waiting: Callable[[float], None]


class Fetcher:
    """Claims the deliveries of one run.

    Args:
        store: the store to claim from.
        plan: the settings of the claims.
        gates: limit the claims of each endpoint.
        in_flight: the leases that the run already holds.
        destinations: opens each endpoint with due deliveries.
        heartbeat: renews the run's own leases before expired ones are taken over.
        is_over: returns whether the run has failed or its time is up, so that it claims nothing more.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        *,
        gates: Gatekeeper,
        in_flight: InFlight,
        destinations: Destinations,
        heartbeat: LeaseHeartbeat,
        is_over: Callable[[], bool],
    ) -> None:
        self._store = store
        self._plan = plan
        self._gates = gates
        self._in_flight = in_flight
        self._destinations = destinations
        self._heartbeat = heartbeat
        self._is_over = is_over
        self._said_waiting = False
        self._open: list[str] = []
        self._due: list[str] = []
        self._deferred: set[str] = set()
        self._next_due_in = math.inf
        self._look_again_at = self._look_early_at = 0.0
        # The endpoints with new work since the last poll or named claim; None if unknown.
        self._woken_for: frozenset[str] | None = frozenset()
        self._rescue_at = 0.0
        self._expiry = ExpiryWatch(store.lease_seconds)
        self._fold_at = 0.0
        self._folding: asyncio.Task[None] | None = None

    @property
    def pause(self) -> float:
        """Seconds until the next poll, unless something changes first."""
        if self._is_over():
            return POLL_SECONDS
        look_at = self._look_again_at
        if self._may_look_early:
            look_at = min(look_at, self._look_early_at)
        return max(0.0, look_at - asyncio.get_running_loop().time())

    @property
    def _is_woken(self) -> bool:
        return self._woken_for != frozenset()

    @property
    def _may_look_early(self) -> bool:
        """Whether a commit calls for an early poll. A run for one endpoint needs none: that endpoint is busy."""
        return self._is_woken and self._plan.endpoint is None

    def wake(self, endpoints: frozenset[str] | None) -> None:
        """Look for new work soon: there was a commit.

        Args:
            endpoints: the endpoints with new work; None if unknown.
        """
        if endpoints is None or self._woken_for is None:
            self._woken_for = None
        else:
            self._woken_for |= endpoints

    def look_in(self, seconds: float) -> None:
        """Poll again after this time, when a delivery is due, unless an earlier poll is planned."""
        # While chunks are being sent, a poll at each retry's due time would give each retry its own chunk.
        shortest = _SHORTEST_WAIT_SECONDS
        if self._plan.chunk_size:
            shortest = POLL_SECONDS if self._in_flight.total_busy else _SHORTEST_WAIT_FOR_CHUNK_SECONDS
        wait = min(POLL_SECONDS, max(shortest, seconds))
        self._look_again_at = min(self._look_again_at, asyncio.get_running_loop().time() + wait)

    async def take(self, *, is_idle: bool) -> AsyncIterator[list[Lease]]:
        """Claim due deliveries of each endpoint, up to the free room.

        Args:
            is_idle: whether nothing is in flight; if so, look for due deliveries at once.
        """
        named = await self._find_due(is_idle=is_idle)
        # An endpoint whose gate holds everything takes no room from others.
        claimed_from = {name for name in self._due if self._gates.room(name) != 0}
        for name in list(self._due):
            if self._is_over():
                return
            if name in self._deferred and self._in_flight.busy(name):
                continue
            self._deferred.discard(name)
            if (probe := await self._gates.probe(name)) is not None:
                yield [probe]
            if room := self._room(name, claimed_from):
                leases = await self._store.claim(
                    name, owner=self._plan.owner, limit=room.number, most_bytes=room.most_bytes
                )
                # Fewer than requested: nothing else is due, or memory is full. While a gate governs, its room lasts
                # until the next poll.
                if len(leases) < room.number or self._gates.governs(name):
                    self._due.remove(name)
                if name in named and not leases:
                    self.look_in(0)  # another run was faster, or the producer's clock is ahead
                yield leases

    def can_send_shortly(self) -> bool:
        """Return whether gates will soon release due deliveries, or an endpoint is being opened: the run waits for that."""
        return self._destinations.is_opening or any(map(self._gates.holds_shortly, self._open))

    async def others_hold(self) -> bool:
        """Wait briefly if other workers hold deliveries that this run may still get; return whether they do."""
        if not self._plan.take_over:
            return False
        until = await self._store.latest_lease_end(self._plan.endpoint)
        if until is None:
            return False
        if not self._said_waiting:
            self._said_waiting = True
            self._plan.on_waiting(until)
        await asyncio.sleep(min(POLL_SECONDS, max(0.05, until - self._store.clock())))
        return True

    async def stop(self) -> None:
        """Fold once more, for at most a second, and stop."""
        if self._folding is not None:
            last = asyncio.create_task(self._fold_after(self._folding))
            done, _ = await asyncio.wait([last], timeout=_LAST_FOLD_SECONDS)
            for task in (last, self._folding):
                task.cancel()
                await asyncio.wait([task])
            for task in done:
                task.result()

    async def _find_due(self, *, is_idle: bool) -> frozenset[str]:
        """Find the endpoints to claim from: while nothing is in flight, those that notifications name; otherwise by a poll.

        Notifications do not delay the regular poll, so the known gates are at most ``POLL_SECONDS`` old.

        Returns:
            The endpoints found by notification; none after a poll.
        """
        now = asyncio.get_running_loop().time()
        is_idle = is_idle or (self._is_woken and not self._in_flight.total_busy)
        if is_idle and self._woken_for and now < self._look_again_at:
            named = await self._open_named(self._woken_for)
            if named:
                self._due += named - set(self._due)
                return named
        if is_idle or now >= self._look_again_at:
            await self._look()
            self._deferred.clear()
            self._look_again_at = math.inf
            self.look_in(self._next_due_in)
        elif self._may_look_early and now >= self._look_early_at:
            # An endpoint that becomes due while its deliveries are in flight waits until they end, or for the regular poll,
            # which claims more at once.
            still_due = set(self._due)
            await self._look()
            self._deferred.update(set(self._due) - still_due)
            self.look_in(self._next_due_in)
        return frozenset()

    async def _open_named(self, names: frozenset[str]) -> frozenset[str]:
        """Return the open endpoints among the named ones; none if a gate governs one of them, since that needs a poll."""
        self._woken_for = frozenset()
        if self._plan.endpoint is not None:
            names &= {self._plan.endpoint}
        if any(map(self._gates.governs, names)):
            return frozenset()
        return frozenset(await self._destinations.open_of(sorted(names)))

    async def _look(self) -> None:
        """Find the endpoints with due deliveries, and open new ones."""
        self._woken_for = frozenset()
        began_at = asyncio.get_running_loop().time()
        if self._plan.take_over and asyncio.get_running_loop().time() >= self._rescue_at:
            await self._heartbeat.catch_up()  # so that the rescue does not take this run's leases
            await self._store.rescue(endpoint=self._plan.endpoint, watch=self._expiry)
            self._rescue_at = asyncio.get_running_loop().time() + RESCUE_SECONDS
        if asyncio.get_running_loop().time() >= self._fold_at:
            self._start_fold()
            self._fold_at = asyncio.get_running_loop().time() + FOLD_SECONDS
        now = self._store.clock()
        found, gates = await self._store.look(self._plan.endpoint)
        due = [due.endpoint for due in found if due.at <= now]
        self._next_due_in = min((due.at - now for due in found if due.at > now), default=math.inf)
        self._open = await self._destinations.open_of(due)
        await self._gates.look(gates, self._open)
        self._due = list(self._open)
        ended_at = asyncio.get_running_loop().time()
        self._look_early_at = ended_at + max(_EARLY_POLL_SECONDS, (ended_at - began_at) / _EARLY_POLL_SHARE)

    def _start_fold(self) -> None:
        """Fold in the background, so that a claim never waits for a transaction that has locked a ledger."""
        if self._folding is not None:
            if not self._folding.done():
                return
            self._folding.result()
        self._folding = asyncio.create_task(self._fold())

    async def _fold_after(self, folding: asyncio.Task[None]) -> None:
        await asyncio.wait([folding])
        await self._fold()

    async def _fold(self) -> None:
        with contextlib.suppress(StoreError):  # the next fold tries again; the next claim reports an outage
            await self._store.fold()

    def _room(self, endpoint: str, claimed_from: set[str]) -> _Room | None:
        """Return how much to claim now, ahead of need; None if there is too little room for a large claim."""
        allowed = self._gates.room(endpoint)
        if allowed == 0:
            return None
        others = len((self._in_flight.busy_endpoints() | claimed_from) - {endpoint})
        share = self._gates.limiter.share(endpoint)
        # Fewer chunks per endpoint if there are more endpoints, since all bodies are in memory.
        wanted = max(4 * share, 4 * self._plan.chunk_size // (others + 2))
        left = MOST_BYTES - self._in_flight.bytes
        most_bytes: int | None = left
        if left < MOST_BYTES // 2:
            wanted, most_bytes = 2 * share, None
        if (most := self._destinations.rates.most_claimed(endpoint)) is not None:
            wanted = min(wanted, most)
        room = wanted - self._in_flight.busy(endpoint)
        if allowed is not None:
            return _Room(min(room, allowed), most_bytes) if min(room, allowed) > 0 else None
        return _Room(room, most_bytes) if room >= (wanted + 1) // 2 else None
