"""Claims deliveries for a run: asks ``plan`` what to claim, and ``poll_times`` when to look."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from resonant.dispatch.claim import poll_times
from resonant.dispatch.claim.looking import Found, Lookout
from resonant.dispatch.claim.plan import MOST_BESIDE_SHORT, Plan, Situation, plan_claims
from resonant.dispatch.claim.poll_times import PollTimes
from resonant.dispatch.claim.probes import ProbeTurns
from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.dispatch.flights.flight import Flight
from resonant.dispatch.flights.flights import Flights
from resonant.dispatch.limiting.limiter import ConcurrencyLimiter
from resonant.store import WorkerStore

T = TypeVar("T")

# The shortest time between two checks of many endpoints, if none of them had room.
_REST_SECONDS = 0.01


@dataclass(slots=True, eq=False)
class Fetcher:
    """Claims the deliveries of one run.

    Attributes:
        store: the store to claim from.
        owner: the owner of the leases.
        chunk_size: deliveries per chunk; 0 if each is sent alone.
        limiter: limits concurrent sends.
        flights: the flights of the run.
        lookout: finds the endpoints with due deliveries.
        probes: decides which endpoint is probed next.
        is_over: returns whether the run has failed or its time is up, so that it claims nothing more.
    """

    store: WorkerStore
    owner: str
    chunk_size: int
    limiter: ConcurrencyLimiter
    flights: Flights
    lookout: Lookout
    probes: ProbeTurns
    is_over: Callable[[], bool]
    _times: PollTimes = field(default_factory=lambda: PollTimes(poll_times.POLL_SECONDS))
    _found: Found = field(default_factory=Found)
    # When to release leases that this run does not know; infinite while the answer to each claim came.
    _release_at: float = math.inf

    @property
    def pause(self) -> float:
        """Seconds until the next poll, unless something changes first."""
        if self.is_over():
            return poll_times.POLL_SECONDS
        look_at = min(self._times.regular, self._times.claim, self.probes.again_at)
        if self.lookout.may_look_early:
            look_at = min(look_at, self._early_at)
        return max(0.0, look_at - asyncio.get_running_loop().time())

    @property
    def _early_at(self) -> float:
        opened = self.lookout.endpoints.opened.values()
        is_sending = any(each.slots.is_short and each.flights.waiting for each in opened)
        return self._times.of_early(is_sending=is_sending)

    def look_in(self, seconds: float) -> None:
        """Poll again after this time, when a delivery is due, unless an earlier poll is planned."""
        now, is_busy = asyncio.get_running_loop().time(), bool(self.flights.counts.busy)
        self._times = self._times.looking_in(seconds, now, is_busy=is_busy, with_chunks=self.chunk_size > 0)

    def can_send_shortly(self) -> bool:
        """Return whether gates will soon release due deliveries, or an endpoint is being opened: the run waits for that."""
        return self.lookout.endpoints.is_opening or any(each.holds_shortly() for each in self._found.due)

    async def take(self, *, is_idle: bool) -> AsyncIterator[list[Flight]]:
        """Claim due deliveries of some endpoints, up to their free room, and a probe if one is due.

        Endpoints whose sends are short come first. One call makes one transaction for a few endpoints; ``pause`` is then 0 if
        others have room too.

        Args:
            is_idle: whether nothing is in flight; if so, look for due deliveries at once.
        """
        named = await self._find_due(is_idle=is_idle)
        self._times = replace(self._times, claim=math.inf)
        if self.is_over():
            return
        await self._release_unknown()
        if probe := await self._probe():
            yield [probe]
        now = asyncio.get_running_loop().time()
        if not is_idle and not named and now < self._times.rest_until:
            self._times = replace(self._times, claim=self._times.rest_until)
            return
        plan = self._plan(now)
        if not plan.limits:
            return
        claiming = self.store.claim_each(
            plan.limits,
            owner=self.owner,
            new=plan.new,
            most_bytes=plan.most_bytes,
            bounds=self.lookout.bounds.of(plan.limits),
            begin_up_to=plan.begin_up_to,
            in_turn=plan.in_turn,
        )
        for name, leases in (await self._confirmed(claiming)).items():
            endpoint = self.lookout.endpoints.opened[name]
            # Fewer than requested: nothing else is due, or memory is full. While a gate governs, its room lasts until the next
            # poll.
            if len(leases) < plan.limits[name] or endpoint.governs():
                self._found.claimable.pop(endpoint, None)
            if endpoint in named and not leases:
                self.look_in(0)  # another run was faster, or the producer's clock is ahead
            if leases:
                endpoint.note_claim(now, {lease.event.type for lease in leases})
                yield [self.flights.claim(lease, endpoint) for lease in leases]

    def _plan(self, now: float) -> Plan:
        """Plan the next claims, and note what the plan changes."""
        found = self._found
        found.deferred = {endpoint for endpoint in found.deferred if endpoint.flights.busy}
        opened = self.lookout.endpoints.opened.values()
        situation = Situation(
            now=now,
            at=self.store.clock(),
            flights=self.flights,
            in_flight=[each for each in opened if each.flights.busy or each.flights.bytes],
            overdue=found.overdue,
            deferred=found.deferred,
            share=self.limiter.share,
            allowed=EndpointRun.claim_limit,
            chunk_size=self.chunk_size,
        )
        plan = plan_claims(found.claimable, situation)
        for endpoint, size in plan.sizes.items():
            endpoint.claims = size
        if plan.has_more:
            self._times = replace(self._times, claim=now)
        elif not plan.limits and len(found.claimable) > MOST_BESIDE_SHORT:
            self._times = replace(self._times, rest_until=now + _REST_SECONDS)
        return plan

    async def _probe(self) -> Flight | None:
        """Claim the next probe that is due."""
        now = asyncio.get_running_loop().time()
        has_room = self.limiter.may_probe and self.flights.bytes_left > 0
        for endpoint in self.probes.turns(now, has_room=has_room):
            if (probe := await self._confirmed(self.lookout.gates.probe(endpoint))) is not None:
                self.probes.note_probe(now, asyncio.get_running_loop().time() - now)
                return self.flights.claim(probe, endpoint, is_probe=True)
        return None

    async def _confirmed(self, claiming: Awaitable[T]) -> T:
        """Await a claim. If the answer to its commit is lost, this run may hold leases that it does not know."""
        release_at, self._release_at = self._release_at, -math.inf
        claimed = await claiming
        self._release_at = release_at
        return claimed

    async def _release_unknown(self) -> None:
        """After a claim without an answer, release leases that this run does not know.

        From then on, repeat it: the server may end that commit much later, and the lease would expire as if this run had crashed.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._release_at:
            await self.store.release_all(self.owner, besides=self.flights.lease_keys())
            self._release_at = now + self.store.lease_seconds / 4

    async def _find_due(self, *, is_idle: bool) -> list[EndpointRun]:
        """Find the endpoints to claim from: while nothing is in flight, those that notifications name; otherwise by a poll.

        Notifications do not delay the regular poll, so the known gates are at most ``POLL_SECONDS`` old.

        Returns:
            The endpoints found by notification; none after a poll.
        """
        now, lookout = asyncio.get_running_loop().time(), self.lookout
        is_idle = is_idle or (lookout.is_woken and not self.flights.counts.busy)
        if is_idle and lookout.woken_for and now < self._times.regular:
            named = await lookout.open_named(lookout.woken_for)
            if named:
                self._found.claimable |= dict.fromkeys(named)
                return named
        if is_idle or now >= self._times.regular:
            await self._look()
            self._times = replace(self._times, regular=math.inf)
            self.look_in(self._found.next_due_in)
        elif lookout.may_look_early and now >= self._early_at:
            # An endpoint that becomes due while its deliveries are in flight waits until they end, or for the regular poll,
            # which claims more at once.
            before = self._found
            await self._look()
            new = self._found.claimable.keys() - before.claimable.keys()
            self._found.deferred = before.deferred | new
            self.look_in(self._found.next_due_in)
        return []

    async def _look(self) -> None:
        """Find the endpoints with due deliveries."""
        self._found = found = await self.lookout.look(self._times.idle_seconds)
        self.probes.note_found(found.held, found.due)
        needs_poll = any(endpoint.takes_turns() for endpoint in found.due)
        ended_at = asyncio.get_running_loop().time()
        self._times = self._times.after_poll(ended_at, found.took, needs_poll=needs_poll)
