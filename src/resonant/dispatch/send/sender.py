"""Makes attempts, and records each with its decision before reporting it."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.dispatch.flights.chunk import MOST_SHOWN
from resonant.dispatch.flights.counts import State
from resonant.dispatch.limits import WAIT_SECONDS
from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.dispatch.send.chunk import all_of, send_ahead
from resonant.dispatch.send.unsent import Expired, Held, LeaseLost, TimeIsUp
from resonant.store.engine.clock import steady_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from resonant.delivery.attempt import AttemptRunner
    from resonant.delivery.outcome import Outcome
    from resonant.dispatch.counts import Counts
    from resonant.dispatch.flights.chunk import Chunk
    from resonant.dispatch.flights.flight import Flight
    from resonant.dispatch.flights.flights import Flights
    from resonant.dispatch.run.running_tasks import RunningTasks
    from resonant.dispatch.send.admission import Admission
    from resonant.events import LeaseKey
    from resonant.store import WorkerStore

# For how long a claim that records beginnings stands for them: much shorter than a lease.
_JUST_SECONDS = 1.0


class Recorder:
    """Records what happens to the flights of one run, and counts it.

    Args:
        store: has the deliveries.
        flights: the flights of the run.
        running: tells how long the run lasts.
        counts: counts the outcomes of the run.
    """

    def __init__(self, store: WorkerStore, flights: Flights, running: RunningTasks, counts: Counts) -> None:
        self.counts = counts
        self._store = store
        self._flights = flights
        self._running = running
        self._commits = BatchWriter(store, patience=store.lease_seconds / 3, outlasts=running.outlasts)
        # When the last parked delivery that this run waits for is due, by the store's clock.
        self._waits_until = 0.0
        self._next_due = math.inf

    async def close(self) -> None:
        """Finish all queued writes.

        Raises:
            StoreError: a write failed.
        """
        await self._commits.close()

    def hurry(self) -> None:
        """Write all requested outcomes now."""
        self._commits.hurry()

    async def begin(self, flights: Sequence[Flight], *, again: bool = False) -> set[LeaseKey]:
        """Record that sends are about to start, unless their claim has just done so; return the leases that are still held.

        Args:
            again: whether to record it in any case, since the last beginning is long ago.
        """
        now = self._store.clock()
        held = {each.key for each in flights if not again and _has_just_begun(each, now)}
        others = [each.lease for each in flights if each.key not in held]
        return held | await self._commits.begin(others) if others else held

    def record(
        self, flight: Flight, outcome: Outcome, *, is_urgent: bool = True
    ) -> asyncio.Future[set[LeaseKey]]:
        """Record an attempt and its decision; the result is empty if the lease was lost."""
        if isinstance(outcome.decision, Retry):
            # Count it before the write, so that another delivery cannot take its place.
            flight.to(State.WAITING)
            self._running.note_change()
        return self._commits.record(outcome, is_urgent=is_urgent)

    def settle(self, flight: Flight, outcome: Outcome) -> None:
        """Count a recorded outcome."""
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
        """Count a flight whose lease another worker has."""
        flight.to(State.RETURNED)
        self.counts.lost += 1

    def release(self, flights: Sequence[Flight]) -> asyncio.Future[set[LeaseKey]]:
        """Release leases without charging an attempt.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        for flight in flights:
            flight.to(State.RETURNED)
        releasing = self._commits.release([flight.lease for flight in flights])
        self._flights.end_with(releasing, flights)
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
        expiring = self._commits.expire([flight.lease for flight in flights])
        self._flights.end_with(expiring, flights)
        expiring.add_done_callback(partial(_count_expired, len(flights), (self.counts, *counts)))
        return expiring

    def longest_wait(self) -> float:
        """Return how long a retry may wait in this process, so that a run does not outlive its end; 0 if it may not wait."""
        if not self._flights.may_wait or self._running.seconds_left() < WAIT_SECONDS:
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
        if due_at > self._store.clock() + WAIT_SECONDS or self._running.seconds_left() < WAIT_SECONDS:
            return False
        self._waits_until = max(self._waits_until, due_at)
        return True


class Sender:
    """Makes the attempts of one run, one flight at a time.

    Args:
        store: has the clock, and the duration of leases.
        attempt_runner: makes each attempt.
        admission: admits the sends.
        recorder: records each attempt.
        flights: the flights of the run.
        running: receives errors, which end the run.
    """

    def __init__(
        self,
        store: WorkerStore,
        attempt_runner: AttemptRunner,
        *,
        admission: Admission,
        recorder: Recorder,
        flights: Flights,
        running: RunningTasks,
    ) -> None:
        self._store = store
        self._attempt_runner = attempt_runner
        self.admission = admission
        self.recorder = recorder
        self._flights = flights
        self.running = running
        self.clock = steady_clock()

    @asynccontextmanager
    async def admitted(self, flights: Sequence[Flight]) -> AsyncIterator[None]:
        """Wait until the first flight may be sent, and keep its place for its attempt in the block.

        So a task run starts only to send.

        Raises:
            TimeIsUp, Held: all flights were released without charging an attempt.
            StoreUnavailable: the store did not recover in time.
        """
        first = flights[0]
        try:
            await self.admission.admit(first, starts=True)
        except (TimeIsUp, Held):
            await self.recorder.release(flights)
            raise
        try:
            yield
        finally:
            if first.state is State.ADMITTED:
                self.admission.leave(first)

    async def attempt(self, key: LeaseKey, *, task_run_id: str | None = None) -> Outcome:
        """Make one attempt, and record it with its decision.

        Raises:
            LeaseLost: another worker has the delivery, or this worker has a newer lease.
            TimeIsUp: the run's time was up before the send; the delivery was released without charging an attempt.
            Expired: the event has expired; the delivery was given up without an attempt.
            Held: the endpoint's gate holds the delivery, which was released without charging an attempt.
            StoreUnavailable: the outcome could not be written; the delivery will be tried again.
        """
        if (flight := self._flights.get(key)) is None:
            raise LeaseLost
        try:
            return await self._attempt(flight, task_run_id)
        except (LeaseLost, TimeIsUp, Held, Expired):
            raise
        except Exception as error:
            self.running.fail(error)  # even if `emit_one` catches it
            raise

    async def _attempt(self, flight: Flight, task_run_id: str | None) -> Outcome:
        if flight.state is State.WAITING:
            flight.to(State.CLAIMED)
        try:
            outcome = await self.send_admitted(flight, task_run_id, longest_wait=self.recorder.longest_wait)
        except (TimeIsUp, Held):
            await self.recorder.release([flight])
            raise
        except Expired:
            await self.recorder.expire([flight])
            raise
        except LeaseLost:
            self.recorder.lose(flight)
            raise
        # Record after freeing the slot, so that the next sends begin in the same transaction.
        if not await self.recorder.record(flight, outcome):
            self.recorder.lose(flight)
            raise LeaseLost
        self.recorder.settle(flight, outcome)
        return outcome

    async def send_admitted(
        self, flight: Flight, task_run_id: str | None, *, longest_wait: Callable[[], float]
    ) -> Outcome:
        """Place, begin and send a flight; return the outcome, which is not recorded yet.

        Raises:
            LeaseLost, TimeIsUp, Held, Expired: nothing was sent.
            StoreUnavailable: the store did not recover in time.
        """
        if flight.state is State.ADMITTED:
            self.admission.start(flight)
        else:
            await self.admission.admit(flight)
        endpoint = flight.endpoint
        with self.admission.placed(flight) as place:
            begun_at = self.clock()
            if not await self.recorder.begin([flight]):
                raise LeaseLost
            if not await endpoint.rate.wait(place.at):
                raise TimeIsUp
            if endpoint.rate.is_limited and endpoint.stops():
                raise Held(endpoint.gate.row)
            self.admission.begin(place)
            return await self._send(flight, begun_at, task_run_id, longest_wait)

    async def send_begun(self, flight: Flight, begun_at: float, task_run_id: str | None) -> Outcome:
        """Send a flight of a chunk that has a place, and has begun; as ``send_admitted``."""
        with self.admission.placed(flight):
            return await self._send(flight, begun_at, task_run_id, no_wait)

    async def _send(
        self, flight: Flight, begun_at: float, task_run_id: str | None, longest_wait: Callable[[], float]
    ) -> Outcome:
        # This process may have waited, or been suspended, for longer than the lease.
        while self.clock() - begun_at > self._store.lease_seconds / 2:
            begun_at = self.clock()
            if not await self.recorder.begin([flight], again=True):
                raise LeaseLost
        lease, endpoint = flight.lease, flight.endpoint
        if lease.event.has_expired(self._store.clock()):
            endpoint.has_changed.set()
            raise Expired
        attempt = self._attempt_runner.attempt(
            lease,
            endpoint.destination,
            longest_wait=longest_wait,
            gate=partial(endpoint.view, lease.event.type),
            task_run_id=task_run_id,
        )
        return await self.admission.watch(endpoint, attempt)


class ChunkSender:
    """Makes the attempts of chunks.

    Args:
        sender: makes the attempt of one flight.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._admission = sender.admission
        self._recorder = sender.recorder
        self._running = sender.running

    @asynccontextmanager
    async def admitted(self, chunk: Chunk) -> AsyncIterator[None]:
        """Wait until the first flight may be sent, as ``Sender.admitted``; then release those that would be held."""
        async with self._sender.admitted(chunk.flights):
            if left := chunk.keep(_most_admitted(chunk)):
                await self._recorder.release(left)
            yield

    async def attempt_all(self, chunk: Chunk, *, task_run_id: str | None = None) -> Chunk:
        """Make one attempt of each delivery in a chunk, and park every retry.

        Raises:
            StoreUnavailable: outcomes could not be written; these deliveries will be tried again.
        """
        chunk.begin()
        chunk.task_run_id = task_run_id
        flights = chunk.flights
        try:
            # The first was admitted before its task run started.
            works = [self._send_admitted(chunk, flights.popleft())] if flights else []
            if chunk.endpoint.governs() or chunk.endpoint.rate.is_limited:
                # Do not begin deliveries ahead of their sends: a crash charges an attempt to each begun delivery.
                works += [self._send_admitted(chunk, flights.popleft()) for _ in range(len(flights))]
            elif flights:
                works.append(self._send_ahead(chunk))
            await all_of(works)
            self._recorder.hurry()
            await asyncio.gather(*chunk.writing)
            await asyncio.sleep(0)  # gather returns at once, before their callbacks, if all are done
        except Exception as error:
            self._running.fail(error)  # even if `emit_chunk` catches it
            raise
        if not self._running.is_over():
            chunk.counts.held, chunk.counts.left = chunk.counts.left, 0
        return chunk

    async def _send_ahead(self, chunk: Chunk) -> None:
        await send_ahead(
            chunk.flights,
            begin=self._recorder.begin,
            admit=partial(self._admit, chunk),
            send=partial(self._send_begun, chunk),
            on_lost=partial(self._lose, chunk),
            on_left=partial(self._release, chunk),
            window=chunk.endpoint.window,
            clock=self._sender.clock,
            is_over=lambda: self._running.is_over() or chunk.endpoint.governs(),
        )

    async def _admit(self, chunk: Chunk, flight: Flight) -> bool:
        try:
            await self._admission.admit(flight, is_begun=True)
        except (TimeIsUp, Held):
            self._release(chunk, [flight])
            return False
        return True

    async def _send_begun(self, chunk: Chunk, flight: Flight, begun_at: float) -> None:
        await self._await(chunk, flight, self._sender.send_begun(flight, begun_at, chunk.task_run_id))

    async def _send_admitted(self, chunk: Chunk, flight: Flight) -> None:
        sending = self._sender.send_admitted(flight, chunk.task_run_id, longest_wait=no_wait)
        await self._await(chunk, flight, sending)

    async def _await(self, chunk: Chunk, flight: Flight, sending: Awaitable[Outcome]) -> None:
        """Await a send of a chunk, and record its outcome without waiting for the commit."""
        try:
            outcome = await sending
        except (TimeIsUp, Held):
            self._release(chunk, [flight])
        except LeaseLost:
            self._lose(chunk, flight)
        except Expired:
            chunk.writing.append(self._recorder.expire([flight], chunk.counts))
        else:
            recorded = self._recorder.record(flight, outcome, is_urgent=False)
            recorded.add_done_callback(partial(self._settle, chunk, flight, outcome))
            chunk.writing.append(recorded)

    def _settle(
        self, chunk: Chunk, flight: Flight, outcome: Outcome, recorded: asyncio.Future[set[LeaseKey]]
    ) -> None:
        if recorded.cancelled() or recorded.exception() is not None:
            return
        if not recorded.result():
            self._lose(chunk, flight)
            return
        self._recorder.settle(flight, outcome)
        match outcome.decision:
            case None:
                chunk.counts.delivered += 1
            case GiveUp(reason=reason):
                chunk.counts.dead_letters[reason] += 1
                if len(chunk.shown) < MOST_SHOWN:
                    chunk.shown.append(outcome)
            case _:
                chunk.counts.parked += 1
                chunk.counts.codes[outcome.attempt.code or "unknown"] += 1

    def _release(self, chunk: Chunk, flights: Sequence[Flight]) -> None:
        """Release leases at once, since the chunk may wait for slow answers."""
        if not flights:
            return
        chunk.counts.left += len(flights)
        releasing = self._recorder.release(flights)
        # After an earlier error, nothing awaits this future, and asyncio would log its error.
        releasing.add_done_callback(lambda done: done.cancelled() or done.exception())
        chunk.writing.append(releasing)

    def _lose(self, chunk: Chunk, flight: Flight) -> None:
        self._recorder.lose(flight)
        chunk.counts.lost += 1


def no_wait() -> float:
    """Return that a retry may not wait in this process."""
    return 0.0


def _has_just_begun(flight: Flight, now: float) -> bool:
    begun_at = flight.lease.begun_at
    return begun_at is not None and abs(now - begun_at) < _JUST_SECONDS


def _most_admitted(chunk: Chunk) -> int:
    """Return how many flights of a chunk the gate would admit soon, including the first, which is admitted."""
    endpoint, number = chunk.endpoint, len(chunk.flights)
    if not endpoint.governs() or chunk.flights[0].is_probe:
        return number
    others = endpoint.flights.waiting - (number - 1)
    return 1 + (0 if endpoint.stops() else max(0, endpoint.most_waiting() - others))


def _count_expired(number: int, counts: Sequence[Counts], done: asyncio.Future[set[LeaseKey]]) -> None:
    if done.cancelled() or done.exception() is not None:
        return
    for each in counts:
        each.dead_letters["expired"] += len(done.result())
        each.lost += number - len(done.result())
