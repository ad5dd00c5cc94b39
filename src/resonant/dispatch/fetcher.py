"""Claims deliveries for a run: ahead of need, fairly between endpoints, within a memory limit."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resonant.dispatch.claim_size import FIRST_CHUNK, FIRST_CLAIM, ClaimSize
from resonant.errors import StoreError
from resonant.gate.permission import NoLimit
from resonant.store.queue.rescue import ExpiryWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from resonant.dispatch.admission import Gatekeeper
    from resonant.dispatch.destinations import Destinations
    from resonant.dispatch.heartbeat import LeaseHeartbeat
    from resonant.dispatch.in_flight import InFlight
    from resonant.events import Lease
    from resonant.store import WorkerStore

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
# The shortest time between two probes of a run, and the share of its time that claiming them may take: with many endpoints
# down, each is probed less often.
PROBE_SECONDS = 0.1
_PROBE_SHARE = 0.05
# The most endpoints in one transaction of claims: few if sends to one of them are short, so that it does not wait for others.
_MOST_ENDPOINTS, _MOST_BESIDE_SHORT = 128, 16
# The shortest time between two checks of many endpoints, if none of them had room.
_REST_SECONDS = 0.01
# The smallest claim in the bulk lane from an endpoint that has finished deliveries: a task run costs as much as ten sends.
_LEAST_CHUNK = 16
# Claims grow beyond a fair size only up to this many deliveries in total, because of their memory.
MOST_CLAIMED = 5_000
# The maximum total size of the bodies that a run holds. Twice the number of concurrent sends is always allowed.
MOST_BYTES = 64 * 1024 * 1024


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
        store: WorkerStore,
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
        # The endpoints with due deliveries (the values are unused), and those whose gates hold them.
        self._due: dict[str, None] = {}
        self._held: deque[str] = deque()
        self._probe_at = 0.0
        self._has_probed = False
        self._has_more = False
        self._claim_at = 0.0
        self._is_early = False
        first = FIRST_CHUNK if plan.chunk_size else FIRST_CLAIM
        self._sizes: defaultdict[str, ClaimSize] = defaultdict(lambda: ClaimSize(first))
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
        if self._has_more:
            return 0.0
        look_at = self._look_again_at
        if self._may_look_early:
            look_at = min(look_at, self._look_early_at)
        if self._is_early:
            look_at = min(look_at, self._claim_at)
        if self._has_probed:  # another endpoint may wait for its probe
            look_at = min(look_at, self._probe_at)
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
        """Claim due deliveries of some endpoints, up to their free room, and a probe if one is due.

        Endpoints whose sends are short come first. One call makes one transaction for a few endpoints; ``pause`` is then 0 if
        others have room too.

        Args:
            is_idle: whether nothing is in flight; if so, look for due deliveries at once.
        """
        named = await self._find_due(is_idle=is_idle)
        self._has_more = self._is_early = False
        if self._is_over():
            return
        probe = await self._probe()
        self._has_probed = probe is not None
        if probe is not None:
            yield [probe]
        now = asyncio.get_running_loop().time()
        self._is_early = not is_idle and not named and now < self._claim_at
        if self._is_early or not (limits := self._limits()):
            return
        left = MOST_BYTES - self._in_flight.bytes
        claimed = await self._store.claim_each(
            limits, owner=self._plan.owner, most_bytes=None if self._is_full else left
        )
        for name, leases in claimed.items():
            # Fewer than requested: nothing else is due, or memory is full. While a gate governs, its room lasts until the next
            # poll.
            if len(leases) < limits[name] or self._gates.governs(name):
                self._due.pop(name, None)
            if name in named and not leases:
                self.look_in(0)  # another run was faster, or the producer's clock is ahead
            if leases:
                yield leases

    async def _probe(self) -> Lease | None:
        """Claim the next probe that is due, a few in a second at most: many endpoints may be down."""
        now = asyncio.get_running_loop().time()
        if now < self._probe_at or not self._gates.limiter.may_probe:
            return None
        for _ in range(len(self._held)):
            name = self._held.popleft()
            self._held.append(name)
            if (probe := await self._gates.probe(name)) is not None:
                took = asyncio.get_running_loop().time() - now
                self._probe_at = now + max(PROBE_SECONDS, took / _PROBE_SHARE)
                return probe
        return None

    def _limits(self) -> dict[str, int]:
        """Return how many deliveries to claim from each of the next endpoints, those with short sends first."""
        is_short = self._gates.limiter.is_short
        limits: dict[str, int] = {}
        names = sorted(self._due, key=lambda name: not is_short(name))
        most = _MOST_BESIDE_SHORT if names and is_short(names[0]) else _MOST_ENDPOINTS
        for name in names:
            if len(limits) == most:
                self._has_more = True
                break
            if (room := self._room(name, sum(limits.values()))) > 0:
                limits[name] = room
        if not limits and len(self._due) > _MOST_BESIDE_SHORT:
            self._claim_at = asyncio.get_running_loop().time() + _REST_SECONDS
        return limits

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
                self._due |= dict.fromkeys(named)
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
        held = {name for name in self._open if self._gates.room(name) == 0}
        self._due = dict.fromkeys(name for name in self._open if name not in held)
        self._claim_at = 0.0
        # Those that were probed longest ago stay in front.
        known = [name for name in self._held if name in held]
        self._held = deque([*known, *sorted(held.difference(known))])
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

    @property
    def _is_full(self) -> bool:
        """Whether the bodies in flight take much of the memory."""
        return self._in_flight.bytes > MOST_BYTES // 2

    def _room(self, endpoint: str, others_claim: int) -> int:
        """Return how many deliveries to claim now, ahead of need; 0 if there is too little room for a large claim.

        Args:
            endpoint: the endpoint's name.
            others_claim: the number of deliveries that the same transaction claims from other endpoints.
        """
        busy = self._in_flight.busy(endpoint)
        size = self._sizes[endpoint]
        if busy > size.refill_at or (endpoint in self._deferred and busy):
            return 0
        self._deferred.discard(endpoint)
        if (allowed := self._gates.room(endpoint)) == 0:
            return 0
        now, finished = asyncio.get_running_loop().time(), self._in_flight.finished(endpoint)
        limiter, chunk_size = self._gates.limiter, self._plan.chunk_size
        share = limiter.share(endpoint)
        if self._is_full:
            wanted = 2 * share
        else:
            others = len((self._in_flight.busy_endpoints() | self._due.keys()) - {endpoint})
            # Fewer chunks per endpoint if there are more endpoints, since all bodies are in memory.
            fair = max(4 * share, min(chunk_size, _LEAST_CHUNK), 4 * chunk_size // (others + 2))
            left = MOST_CLAIMED - others_claim - (self._in_flight.total_busy - busy)
            most = max(fair, min(left, max(4 * limiter.limit_of(endpoint), 2 * chunk_size)))
            wanted = size.next(now, finished, busy, fair=fair, most=most, is_alone=not others)
        if (of_rate := self._destinations.rates.most_claimed(endpoint)) is not None:
            wanted = min(wanted, of_rate)
        room = wanted - busy
        if not isinstance(allowed, NoLimit):
            return min(room, allowed)
        if room < (wanted + 1) // 2:
            return 0
        size.note_claim(now, finished, wanted)
        return room
