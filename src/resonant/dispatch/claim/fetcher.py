"""Claims deliveries for a run: ahead of need, fairly between endpoints, within a memory limit."""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

from resonant.dispatch.claim.due_bounds import DueBounds
from resonant.dispatch.claim.leases import TakeOver
from resonant.dispatch.endpoints import Endpoints
from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.dispatch.flights.flight import Flight
from resonant.dispatch.flights.flights import Flights
from resonant.dispatch.gate_rows import GateRows
from resonant.dispatch.limiting.limiter import ConcurrencyLimiter
from resonant.gate.permission import NO_LIMIT
from resonant.store import WorkerStore
from resonant.store.queue.leases import Turns

T = TypeVar("T")

# The longest time between two polls, in case a wake-up was lost. A poll takes a millisecond, but longer with many endpoints: then,
# while nothing is in flight, polls take at most this share of the time, and are at most two seconds apart.
POLL_SECONDS = 0.25
_IDLE_POLL_SHARE, _LONGEST_POLL_SECONDS = 0.05, 2.0
# The shortest time between a poll and an early one that a commit causes while deliveries are being sent. On SQLite, the run's
# own commits also cause early polls. Shorter intervals would make smaller chunks. With many endpoints, a poll takes long: early
# polls take at most this share of the time. While no claimed delivery waits for its send, only the larger share limits them.
_EARLY_POLL_SECONDS = 0.1
_EARLY_POLL_SHARE, _SPARE_POLL_SHARE = 0.02, 0.1
# The shortest waits for the next parked delivery. With chunks, deliveries due soon after it join its chunk.
_SHORTEST_WAIT_SECONDS = 0.02
_SHORTEST_WAIT_FOR_CHUNK_SECONDS = 0.05
# The shortest time between two probes of a run, and the share of its time that claiming them may take: with many endpoints
# down, each is probed less often.
PROBE_SECONDS = 0.1
_PROBE_SHARE = 0.05
# The most endpoints in one transaction of claims: few if sends to one of them are short, so that it does not wait for others.
_MOST_ENDPOINTS, _MOST_BESIDE_SHORT = 128, 16
# The shortest time between two checks of many endpoints, if none of them had room.
_REST_SECONDS = 0.01
# The smallest claim for a chunk from an endpoint that has finished deliveries: a task run costs as much as ten sends.
_LEAST_CHUNK = 16
# Claims grow beyond a fair size only up to this many deliveries in total, because of their memory.
MOST_CLAIMED = 5_000
# The most deliveries whose sends begin with their claim: the start of a task run takes a few milliseconds.
_MOST_BEGUN = 4
# If an endpoint's earliest due delivery is overdue for longer, it may have a backlog, and half of a claim is for new events. These
# wait for claimed deliveries, so claims grow only while each is sent quickly.
_LATE_SECONDS = 1.0


class Fetcher:
    """Claims the deliveries of one run.

    Args:
        store: the store to claim from.
        endpoint: the only endpoint to claim from; None for all.
        chunk_size: deliveries per chunk; 0 if each is sent alone.
        endpoints: opens each endpoint with due deliveries.
        gates: the rows of their gates.
        limiter: limits concurrent sends.
        flights: the flights of the run.
        take_over: rescues expired leases before a look.
        is_over: returns whether the run has failed or its time is up, so that it claims nothing more.
        stays: whether the run continues when only held deliveries are left.
    """

    def __init__(
        self,
        store: WorkerStore,
        *,
        owner: str,
        endpoint: str | None,
        chunk_size: int,
        endpoints: Endpoints,
        gates: GateRows,
        limiter: ConcurrencyLimiter,
        flights: Flights,
        take_over: TakeOver,
        is_over: Callable[[], bool],
        stays: bool,
    ) -> None:
        self._stays = stays
        self._store = store
        self._owner = owner
        self._endpoint = endpoint
        self._chunk_size = chunk_size
        self._endpoints = endpoints
        self._gates = gates
        self._limiter = limiter
        self._flights = flights
        self._take_over = take_over
        self._is_over = is_over
        # The open endpoints with due deliveries as of the last look, those of them to claim from (the values are unused), those
        # whose gates hold them, and those whose deliveries in flight end first.
        self._due: list[EndpointRun] = []
        self._claimable: dict[EndpointRun, None] = {}
        self._held: deque[EndpointRun] = deque()
        self._deferred: set[EndpointRun] = set()
        # How long the endpoints' earliest due deliveries are overdue, and the endpoints whose last half was rounded down.
        self._overdue: dict[str, float] = {}
        self._bounds = DueBounds(POLL_SECONDS, asyncio.get_running_loop().time)
        self._hears_commits = False
        self._carried: Counter[str] = Counter()
        self._probe_at = 0.0
        self._has_probed = False
        self._has_unknown_leases = False
        self._has_more = False
        self._claim_at = 0.0
        self._is_early = False
        self._next_due_in = math.inf
        self._look_again_at = self._look_early_at = self._look_soon_at = 0.0
        self._idle_poll_seconds, self._last_took = POLL_SECONDS, 0.0
        # The endpoints with new work since the last poll or named claim; None if unknown.
        self._woken_for: frozenset[str] | None = frozenset()

    @property
    def pause(self) -> float:
        """Seconds until the next poll, unless something changes first."""
        if self._is_over():
            return POLL_SECONDS
        if self._has_more:
            return 0.0
        look_at = self._look_again_at
        if self._may_look_early:
            look_at = min(look_at, self._early_at)
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
        return self._is_woken and self._endpoint is None

    @property
    def _early_at(self) -> float:
        """The time of an early poll: soon, unless claimed deliveries of an endpoint with short sends wait."""
        is_sending = any(
            each.slots.is_short and each.flights.waiting for each in self._endpoints.opened.values()
        )
        return self._look_early_at if is_sending else self._look_soon_at

    def wake(self, endpoints: frozenset[str] | None) -> None:
        """Look for new work soon: there was a commit.

        Args:
            endpoints: the endpoints with new work; None if unknown.
        """
        self._hears_commits = True
        if endpoints is None or self._woken_for is None:
            self._woken_for = None
        else:
            self._woken_for |= endpoints if self._endpoint is None else endpoints & {self._endpoint}

    def look_in(self, seconds: float) -> None:
        """Poll again after this time, when a delivery is due, unless an earlier poll is planned."""
        # While chunks are being sent, a poll at each retry's due time would give each retry its own chunk.
        shortest = _SHORTEST_WAIT_SECONDS
        if self._chunk_size:
            shortest = POLL_SECONDS if self._flights.counts.busy else _SHORTEST_WAIT_FOR_CHUNK_SECONDS
        longest = POLL_SECONDS if self._flights.counts.busy else self._idle_poll_seconds
        shortest = max(shortest, longest - POLL_SECONDS)
        wait = min(longest, max(shortest, seconds))
        self._look_again_at = min(self._look_again_at, asyncio.get_running_loop().time() + wait)

    async def take(self, *, is_idle: bool) -> AsyncIterator[list[Flight]]:
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
        if self._has_unknown_leases:
            await self._store.release_all(self._owner, besides=self._flights.delivery_ids())
            self._has_unknown_leases = False
        probe = await self._probe()
        self._has_probed = probe is not None
        if probe is not None:
            yield [probe]
        now = asyncio.get_running_loop().time()
        self._is_early = not is_idle and not named and now < self._claim_at
        if self._is_early:
            return
        limits, most_bytes = self._limits()
        if not limits:
            return
        claiming = self._store.claim_each(
            limits,
            owner=self._owner,
            new={
                name: self._half(name, limits[name])
                for name in limits
                if self._overdue.get(name, 0.0) > _LATE_SECONDS
            },
            most_bytes=most_bytes,
            bounds=self._bounds.of(limits),
            begin_up_to=self._begin_up_to(limits),
            in_turn={
                name: Turns(endpoint.last_claim.event_type, endpoint.gate.failing())
                for name in limits
                if (endpoint := self._endpoints.opened[name]).takes_turns()
            },
        )
        claimed = await self._confirmed(claiming)
        for name, leases in claimed.items():
            endpoint = self._endpoints.opened[name]
            # Fewer than requested: nothing else is due, or memory is full. While a gate governs, its room lasts until the next
            # poll.
            if len(leases) < limits[name] or endpoint.governs():
                self._claimable.pop(endpoint, None)
            if endpoint in named and not leases:
                self.look_in(0)  # another run was faster, or the producer's clock is ahead
            if leases:
                endpoint.note_claim(now, {lease.event.type for lease in leases})
                yield [self._flights.claim(lease, endpoint) for lease in leases]

    async def _probe(self) -> Flight | None:
        """Claim the next probe that is due, a few in a second at most: many endpoints may be down."""
        now = asyncio.get_running_loop().time()
        if now < self._probe_at or not self._limiter.may_probe or self._flights.bytes_left <= 0:
            return None
        for _ in range(len(self._held)):
            endpoint = self._held.popleft()
            self._held.append(endpoint)
            if self._leaves(endpoint):
                continue
            if (probe := await self._confirmed(self._gates.probe(endpoint))) is not None:
                took = asyncio.get_running_loop().time() - now
                self._probe_at = now + max(PROBE_SECONDS, took / _PROBE_SHARE)
                return self._flights.claim(probe, endpoint, is_probe=True)
        return None

    async def _confirmed(self, claiming: Awaitable[T]) -> T:
        """Await a claim. If the answer to its commit is lost, this run may hold leases that it does not know."""
        self._has_unknown_leases = True
        claimed = await claiming
        self._has_unknown_leases = False
        return claimed

    def _leaves(self, endpoint: EndpointRun) -> bool:
        """Return whether to leave further probes of an endpoint to other runs, so that they do not keep this run from ending."""
        if self._stays or not (endpoint.flights.was_probed and endpoint.holds_for_long()):
            return False
        busy = (
            each for each in self._endpoints.opened.values() if each.flights.busy or each.flights.retrying
        )
        return all(each.holds_for_long() for each in busy)

    def _limits(self) -> tuple[dict[str, int], int]:
        """Return how many deliveries to claim from each of the next endpoints, and the most bytes of their bodies.

        Endpoints with short sends come first, in a separate transaction. In each kind, the oldest claim comes first. A single
        endpoint leaves half of the memory free, even if the size of its bodies is unknown.
        """
        limits: dict[str, int] = {}
        total = 0
        endpoints = sorted(self._claimable, key=lambda each: (not each.slots.is_short, each.last_claim.at))
        most = _MOST_BESIDE_SHORT if endpoints and endpoints[0].slots.is_short else _MOST_ENDPOINTS
        in_flight = [
            each for each in self._endpoints.opened.values() if each.flights.busy or each.flights.bytes
        ]
        others = len(endpoints) - 1
        others += sum(each.flights.busy > 0 and each not in self._claimable for each in in_flight)
        most_bytes = left = self._flights.bytes_left
        are_short = True
        for endpoint in endpoints:
            is_short = endpoint.slots.is_short
            if limits and (len(limits) == most or is_short != are_short):
                self._has_more = True
                break
            if is_short != are_short:
                are_short = False
                most_bytes = left = self._flights.bytes_left_for_slow(in_flight)
            if left <= 0:
                break
            if (room := self._room(endpoint, others, total, left)) > 0:
                limits[endpoint.name] = room
                total += room
                left -= room * self._flights.body_bytes(endpoint)
        if not limits and len(endpoints) > _MOST_BESIDE_SHORT:
            self._claim_at = asyncio.get_running_loop().time() + _REST_SECONDS
        return limits, most_bytes if len(limits) > 1 else most_bytes // 2

    def _begin_up_to(self, limits: Mapping[str, int]) -> int:
        """Return how many claimed deliveries would be sent at once: so their sends begin with the claim, without another commit."""
        if len(limits) > 1 or self._flights.counts.busy:
            return 0
        [endpoint] = (self._endpoints.opened[name] for name in limits)
        if endpoint.takes_turns() or endpoint.rate.is_limited:
            return 0
        return min(_MOST_BEGUN, endpoint.window.width)

    def _half(self, name: str, limit: int) -> int:
        """Return half of a claim, rounded down and up in turn."""
        half, self._carried[name] = divmod(limit + self._carried[name], 2)
        return half

    def can_send_shortly(self) -> bool:
        """Return whether gates will soon release due deliveries, or an endpoint is being opened: the run waits for that."""
        return self._endpoints.is_opening or any(endpoint.holds_shortly() for endpoint in self._due)

    async def _find_due(self, *, is_idle: bool) -> frozenset[EndpointRun]:
        """Find the endpoints to claim from: while nothing is in flight, those that notifications name; otherwise by a poll.

        Notifications do not delay the regular poll, so the known gates are at most ``POLL_SECONDS`` old.

        Returns:
            The endpoints found by notification; none after a poll.
        """
        now = asyncio.get_running_loop().time()
        is_idle = is_idle or (self._is_woken and not self._flights.counts.busy)
        if is_idle and self._woken_for and now < self._look_again_at:
            named = await self._open_named(self._woken_for)
            if named:
                self._claimable |= dict.fromkeys(named)
                return named
        if is_idle or now >= self._look_again_at:
            await self._look()
            self._deferred.clear()
            self._look_again_at = math.inf
            self.look_in(self._next_due_in)
        elif self._may_look_early and now >= self._early_at:
            # An endpoint that becomes due while its deliveries are in flight waits until they end, or for the regular poll,
            # which claims more at once.
            still_claimable = set(self._claimable)
            await self._look()
            self._deferred.update(self._claimable.keys() - still_claimable)
            self.look_in(self._next_due_in)
        return frozenset()

    async def _open_named(self, names: frozenset[str]) -> frozenset[EndpointRun]:
        """Return the open endpoints among the named ones; none if a gate governs one of them, since that needs a poll."""
        self._woken_for = frozenset()
        self._bounds.add(names)
        endpoints = await self._endpoints.open_each(sorted(names))
        return frozenset() if any(each.takes_turns() for each in endpoints) else frozenset(endpoints)

    async def _look(self) -> None:
        """Find the endpoints with due deliveries, and open new ones."""
        loop = asyncio.get_running_loop()
        woken_for, self._woken_for = self._woken_for, frozenset()
        began_at = loop.time()
        if woken_for is None:
            await self._endpoints.try_saved()
        await self._take_over.rescue_if_due()
        now, looked_at = self._store.clock(), loop.time()
        bounds = self._bounds.of_next_look(woken_for if self._hears_commits else None)
        until = now + self._idle_poll_seconds
        found, rows = await self._store.look(self._endpoint, bounds=bounds, until=until)
        self._bounds.note(found, bounds=bounds, at=now, seconds=loop.time() - looked_at)
        due = [due.endpoint for due in found if due.at <= now]
        self._overdue = {due.endpoint: now - due.at for due in found}
        self._next_due_in = min((due.at - now for due in found if due.at > now), default=math.inf)
        self._gates.rows = rows  # for the endpoints that are opened now
        opening_at = loop.time()
        self._due = await self._endpoints.open_each(due)
        opening_took = loop.time() - opening_at
        await self._gates.update(rows, self._due)
        held = {endpoint for endpoint in self._due if endpoint.claim_limit() == 0}
        self._claimable = dict.fromkeys(endpoint for endpoint in self._due if endpoint not in held)
        self._claim_at = 0.0
        # Those that were probed longest ago stay in front.
        probed = held | {endpoint for endpoint in self._due if endpoint.gate.failing()}
        known = [endpoint for endpoint in self._held if endpoint in probed]
        new = sorted(probed.difference(known), key=lambda endpoint: endpoint.name)
        self._held = deque([*known, *new])
        self._gates.connect(held)
        ended_at = loop.time()
        took = ended_at - began_at - opening_took  # while it opens endpoints, the run only waits
        self._look_early_at = ended_at + max(_EARLY_POLL_SECONDS, took / _EARLY_POLL_SHARE)
        self._look_soon_at = ended_at + took / _SPARE_POLL_SHARE
        # One slow poll may be chance. Pilots and probes need the regular poll.
        usual, self._last_took = min(took, self._last_took), took
        needs_poll = any(endpoint.takes_turns() for endpoint in self._due)
        longer = min(usual / _IDLE_POLL_SHARE, _LONGEST_POLL_SECONDS)
        self._idle_poll_seconds = POLL_SECONDS if needs_poll else max(POLL_SECONDS, longer)

    def _room(self, endpoint: EndpointRun, others: int, others_claim: int, bytes_left: int) -> int:
        """Return how many deliveries to claim now, ahead of need; 0 if there is too little room for a large claim.

        Args:
            others: the number of other endpoints that are busy, or to be claimed from.
            others_claim: the number of deliveries that the same transaction claims from other endpoints.
            bytes_left: the size of the bodies that may be claimed. An endpoint leaves as much free as it uses, but may use
                one body.
        """
        flights, claims = endpoint.flights, endpoint.claims
        busy, finished = flights.busy, flights.finished
        # While the gate paces, it alone limits how many wait: an endpoint with slow answers needs many in flight for its pace.
        # What becomes due before a chunk has started goes into the next chunk, so that many endpoints do not cause small ones.
        is_used_up = claims.is_used_up(finished, busy) and not flights.chunks
        is_enough = not (is_used_up or endpoint.governs())
        if is_enough or (endpoint in self._deferred and busy):
            return 0
        self._deferred.discard(endpoint)
        if (allowed := endpoint.claim_limit()) == 0:
            return 0
        now, chunk_size = asyncio.get_running_loop().time(), self._chunk_size
        share = self._limiter.share(endpoint.slots)
        # Fewer chunks per endpoint if there are more endpoints, since all bodies are in memory.
        fair = max(4 * share, min(chunk_size, _LEAST_CHUNK), 4 * chunk_size // (others + 2))
        is_late = self._overdue.get(endpoint.name, 0.0) > _LATE_SECONDS and not endpoint.gate.failing()
        if is_behind := allowed == NO_LIMIT and is_late:
            fair = 2 * share
        left = MOST_CLAIMED - others_claim - (self._flights.counts.busy - busy)
        most = max(fair, min(left, max(4 * endpoint.slots.limit, 2 * chunk_size)))
        wanted = claims.next(
            now, finished, busy, fair=fair, most=most, is_alone=not others, is_behind=is_behind
        )
        bodies = (bytes_left - flights.bytes) // 2 // self._flights.body_bytes(endpoint)
        wanted = int(min(wanted, endpoint.rate.most_claimed, busy + max(bodies, not flights.bytes)))
        room = wanted - busy
        if room > chunk_size > 0:
            room -= room % chunk_size  # the rest would be a small chunk
        if allowed < NO_LIMIT:
            return int(min(room, allowed))
        if room < max(1, (wanted + 1) // 2):
            return 0
        claims.note_claim(now, finished, wanted)
        return room
