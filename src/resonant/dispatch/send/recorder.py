"""Records beginnings, outcomes and ends of flights, and settles each after its commit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.dispatch.counts import Counts
from resonant.dispatch.flights.counts import State
from resonant.dispatch.limits import WAIT_SECONDS
from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.dispatch.send.unsent import Expired, LeaseLost

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from resonant.delivery.outcome import Outcome
    from resonant.dispatch.flights.flight import Flight
    from resonant.dispatch.flights.flights import Flights
    from resonant.dispatch.run.running_tasks import RunningTasks
    from resonant.dispatch.send.unsent import Unsent
    from resonant.events import LeaseKey
    from resonant.store import WorkerStore

# For how long a claim that records beginnings stands for them: much shorter than a lease.
_JUST_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Recorder:
    """Records what happens to the flights of one run, and counts it.

    Attributes:
        store: has the deliveries.
        flights: the flights of the run.
        running: tells how long the run lasts, and hears of changes.
        counts: the outcomes of the run.
        commits: writes what is recorded.
    """

    store: WorkerStore
    flights: Flights
    running: RunningTasks
    counts: Counts = field(default_factory=Counts)
    commits: BatchWriter = field(init=False)
    # When the last parked delivery that this run waits for is due, by the store's clock.
    _waits_until: float = 0.0
    _next_due: float = math.inf

    def __post_init__(self) -> None:
        patience = self.store.lease_seconds / 3
        self.commits = BatchWriter(self.store, patience=patience, outlasts=self.running.outlasts)

    async def begin(self, flights: Sequence[Flight], *, again: bool = False) -> set[LeaseKey]:
        """Record that sends are about to start, unless their claim has just done so; return the leases that are still held.

        Args:
            again: whether to record it in any case, since the last beginning is long ago.
        """
        now = self.store.clock()
        held = {each.key for each in flights if not again and _has_just_begun(each, now)}
        others = [each.lease for each in flights if each.key not in held]
        return held | await self.commits.begin(others) if others else held

    def record(
        self, flight: Flight, outcome: Outcome, *, is_urgent: bool = True
    ) -> asyncio.Future[set[LeaseKey]]:
        """Record an attempt and its decision; the result is empty if the lease was lost."""
        if isinstance(outcome.decision, Retry):
            # Count it before the write, so that another delivery cannot take its place.
            flight.to(State.WAITING)
            self.running.note_change()
        return self.commits.record(outcome, is_urgent=is_urgent)

    def settle(self, flight: Flight, outcome: Outcome) -> None:
        """Count a recorded outcome, and end the flight unless it waits for its retry."""
        self.counts.attempts += 1
        match outcome.decision:
            case Retry(delay=delay):
                if flight.note_retry(delay):
                    self.counts.retried += 1
            case None:
                self.counts.delivered += 1
                flight.to(State.FINISHED)
            case Park(next_attempt_at=due_at):
                self._next_due = min(self._next_due, due_at)
                if not self._waits_for(due_at):
                    self.counts.parked += 1
                elif not outcome.lease.round_attempts:
                    self.counts.retried += 1
                flight.to(State.RETURNED)
            case GiveUp(reason=reason):
                self.counts.dead_letters[reason] += 1
                flight.to(State.FINISHED)

    def lose(self, flight: Flight) -> None:
        """Count and end a flight whose lease another worker has."""
        flight.to(State.RETURNED)
        self.counts.lost += 1

    def release(self, flights: Sequence[Flight]) -> asyncio.Future[set[LeaseKey]]:
        """Release leases without charging an attempt.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        for flight in flights:
            flight.to(State.RETURNED)
        releasing = self.commits.release([flight.lease for flight in flights])
        self.flights.end_with(releasing, flights)
        return releasing

    def expire(self, flights: Sequence[Flight], *counts: Counts) -> asyncio.Future[set[LeaseKey]]:
        """Give up the deliveries of expired events, without an attempt.

        Args:
            counts: counts of the outcomes besides those of the run.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        for flight in flights:
            flight.to(State.FINISHED)
        expiring = self.commits.expire([flight.lease for flight in flights])
        self.flights.end_with(expiring, flights)
        expiring.add_done_callback(partial(_count_expired, len(flights), (self.counts, *counts)))
        return expiring

    async def end(self, flight: Flight, why: Unsent) -> None:
        """End a flight that was not sent.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        if isinstance(why, LeaseLost):
            self.lose(flight)
        else:
            await (self.expire([flight]) if isinstance(why, Expired) else self.release([flight]))

    def longest_wait(self, flight: Flight) -> float:
        """Return how long a retry may wait in this process, so that a run does not outlive its end; 0 if it may not wait."""
        if flight.in_chunk or not self.flights.may_wait or self.running.seconds_left() < WAIT_SECONDS:
            return 0.0
        return WAIT_SECONDS

    def waits_for_parked(self, now: float) -> bool:
        """Return whether a delivery that this run parked is due within ``WAIT_SECONDS`` after this time."""
        return now < self._waits_until <= now + WAIT_SECONDS

    def pop_next_due(self) -> float:
        """Return the earliest due time of the deliveries parked since the last call, by the store's clock."""
        first, self._next_due = self._next_due, math.inf
        return first

    def _waits_for(self, due_at: float) -> bool:
        """Return whether this run waits for a parked delivery that is due at this time; if so, remember the time."""
        if due_at > self.store.clock() + WAIT_SECONDS or self.running.seconds_left() < WAIT_SECONDS:
            return False
        self._waits_until = max(self._waits_until, due_at)
        return True


def _has_just_begun(flight: Flight, now: float) -> bool:
    begun_at = flight.lease.begun_at
    return begun_at is not None and abs(now - begun_at) < _JUST_SECONDS


def _count_expired(number: int, counts: Sequence[Counts], done: asyncio.Future[set[LeaseKey]]) -> None:
    if done.cancelled() or done.exception() is not None:
        return
    for each in counts:
        each.dead_letters["expired"] += len(done.result())
        each.lost += number - len(done.result())
