"""Makes attempts, and records each with its decision before reporting it."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.dispatch.counts import Counts
from resonant.dispatch.limits import WAIT_SECONDS
from resonant.dispatch.send.admission import Held
from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.dispatch.send.chunk import all_of, send_ahead
from resonant.store.engine.clock import steady_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from resonant.delivery.attempt import AttemptRunner
    from resonant.delivery.outcome import Outcome
    from resonant.dispatch.endpoint_run import EndpointRun
    from resonant.dispatch.in_flight import InFlight
    from resonant.dispatch.limiting.limiter import Slot
    from resonant.dispatch.run.running_tasks import RunningTasks
    from resonant.dispatch.send.admission import Admission
    from resonant.events import Lease, LeaseKey
    from resonant.store import WorkerStore

# For how long a claim that records beginnings stands for them: much shorter than a lease.
_JUST_SECONDS = 1.0
# The maximum number of dead letters of a chunk that are shown one by one.
MOST_SHOWN = 20


class LeaseLost(Exception):
    """Another worker has the lease. Nothing may be sent, and only history was written."""


class TimeIsUp(Exception):
    """The run is over, and this delivery was released before its send."""


class Expired(Exception):
    """The event expired before its send, and its delivery was given up without an attempt."""

    def __str__(self) -> str:
        return "nothing was sent: the event's expirytime has passed; its delivery is a dead letter (expired)"


class _Place(NamedTuple):
    """The right to one send: the time of its slot of the endpoint's rate, if that is limited, and its slot in this process."""

    at: float | None
    slot: Slot


@dataclass(slots=True)
class Chunk:
    """A chunk, and its outcomes.

    Attributes:
        endpoint: the endpoint of its deliveries.
        task_run_id: stored in the history.
        counts: the outcomes of its deliveries.
        shown: the outcomes of the first ``MOST_SHOWN`` dead letters.
        writing: the pending writes of attempts and releases.
    """

    endpoint: EndpointRun
    task_run_id: str | None
    counts: Counts = field(default_factory=Counts)
    shown: list[Outcome] = field(default_factory=list)
    writing: list[asyncio.Future[Any]] = field(default_factory=list)


class Sender:
    """Makes the attempts of one run.

    Args:
        store: records each attempt.
        attempt_runner: makes each attempt.
        admission: admits the sends.
        endpoints: the open endpoints, by name.
        in_flight: the leases of the run.
        running: receives errors, which end the run.
        counts: counts the outcomes of the run.
    """

    def __init__(
        self,
        store: WorkerStore,
        attempt_runner: AttemptRunner,
        *,
        admission: Admission,
        endpoints: Mapping[str, EndpointRun],
        in_flight: InFlight,
        running: RunningTasks,
        counts: Counts,
    ) -> None:
        self._store = store
        self._attempt_runner = attempt_runner
        self._admission = admission
        self._endpoints = endpoints
        self._in_flight = in_flight
        self._running = running
        self._counts = counts
        self._commits = BatchWriter(store, patience=store.lease_seconds / 3, outlasts=running.outlasts)
        self._clock = steady_clock()
        # When the last parked delivery that this run waits for is due, by the store's clock.
        self._waits_until = 0.0
        self._next_due = math.inf
        # The admitted deliveries whose task runs are starting.
        self._starting: dict[LeaseKey, tuple[AsyncExitStack, _Place]] = {}

    @property
    def starting(self) -> int:
        """The number of admitted deliveries whose task runs have not begun to send."""
        return len(self._starting)

    async def close(self) -> None:
        """Finish all queued writes.

        Raises:
            StoreError: a write failed.
        """
        await self._commits.close()

    @asynccontextmanager
    async def admitted(self, name: str, keys: list[LeaseKey]) -> AsyncIterator[list[LeaseKey]]:
        """Wait until deliveries to one endpoint may be sent, and keep the first one's place for its attempt in the block.

        So a task run starts only to send. Yield the deliveries to send; those that would be held are released.

        Raises:
            TimeIsUp, Held: all were released without charging an attempt.
            StoreUnavailable: the store did not recover in time.
        """
        endpoint, first = self._endpoints[name], keys[0]
        async with AsyncExitStack() as stack:
            try:
                place = await stack.enter_async_context(self._place(endpoint, first, starts=True))
            except (TimeIsUp, Held):
                await self._release_all(keys)
                raise
            endpoint.starting += 1
            self._starting[first] = stack, place
            try:
                most = self._most_admitted(endpoint, keys)
                await self._release_all(keys[most:])
                yield keys[:most]
            finally:
                self._pop_place(endpoint, first)

    @staticmethod
    def _most_admitted(endpoint: EndpointRun, keys: list[LeaseKey]) -> int:
        """Return how many of these deliveries the gate would admit soon, including the first, which is admitted."""
        if not endpoint.governs() or endpoint.probe == keys[0]:
            return len(keys)
        others = endpoint.waiting - (len(keys) - 1)
        return 1 + (0 if endpoint.stops() else max(0, endpoint.most_waiting() - others))

    def _pop_place(self, endpoint: EndpointRun, key: LeaseKey) -> tuple[AsyncExitStack, _Place] | None:
        """Return the place of a delivery whose task run has started, if it has one."""
        if (started := self._starting.pop(key, None)) is not None:
            endpoint.starting -= 1
            endpoint.has_changed.set()
        return started

    @asynccontextmanager
    async def _place(
        self, endpoint: EndpointRun, key: LeaseKey, *, starts: bool = False
    ) -> AsyncIterator[_Place]:
        """Wait for a slot of the endpoint's rate, and for admission."""
        at = await endpoint.rate.take()
        try:
            async with self._admission.admit(endpoint, key, starts=starts) as slot:
                if self._running.is_over():
                    raise TimeIsUp
                yield _Place(at, slot)
        finally:
            endpoint.rate.free(at)

    async def attempt(self, key: LeaseKey, *, task_run_id: str | None = None) -> Outcome:
        """Make one attempt, and record it with its decision.

        Raises:
            LeaseLost: another worker has the delivery, or this worker has a newer lease.
            TimeIsUp: the run's time was up before the send; the delivery was released without charging an attempt.
            Expired: the event has expired; the delivery was given up without an attempt.
            Held: the endpoint's gate holds the delivery, which was released without charging an attempt.
            StoreUnavailable: the outcome could not be written; the delivery will be tried again.
        """
        if (lease := self._in_flight.get(key)) is None:
            raise LeaseLost
        try:
            return await self._attempt(lease, task_run_id)
        except (LeaseLost, TimeIsUp, Held, Expired):
            raise
        except Exception as error:
            self._running.fail(error)  # even if `emit_one` catches it
            raise

    async def _attempt(self, lease: Lease, task_run_id: str | None) -> Outcome:
        self._in_flight.resume(lease)
        try:
            outcome = await self._send_admitted(
                self._endpoints[lease.endpoint], lease, task_run_id, longest_wait=self._longest_wait
            )
        except (TimeIsUp, Held):
            await self.release(lease)
            raise
        except Expired:
            await self.expire([lease])
            raise
        # Record after freeing the slot, so that the next sends begin in the same transaction.
        if not await self._record(outcome):
            raise self._lost(lease)
        self._settle(outcome)
        return outcome

    async def _send_admitted(
        self,
        endpoint: EndpointRun,
        lease: Lease,
        task_run_id: str | None,
        *,
        longest_wait: Callable[[], float],
    ) -> Outcome:
        async with AsyncExitStack() as stack:
            if (started := self._pop_place(endpoint, lease.key)) is None:
                place = await stack.enter_async_context(self._place(endpoint, lease.key))
            else:
                own_stack, place = started
                stack.push_async_exit(own_stack)
            begun_at = self._clock()
            if not await self._begin([lease]):
                raise self._lost(lease)
            if not await endpoint.rate.wait(place.at):
                raise TimeIsUp
            if endpoint.rate.is_limited and endpoint.stops():
                raise Held(endpoint.gate.row)
            self._admission.begin(place.slot)
            return await self._send(endpoint, lease, begun_at, task_run_id, longest_wait=longest_wait)

    async def _begin(self, leases: Sequence[Lease]) -> set[LeaseKey]:
        """Record that sends are about to start, unless their claim has just done so; return the leases that are still held."""
        now = self._store.clock()
        held = {
            each.key
            for each in leases
            if each.begun_at is not None and abs(now - each.begun_at) < _JUST_SECONDS
        }
        others = [each for each in leases if each.key not in held]
        return held | await self._commits.begin(others) if others else held

    async def _send(
        self,
        endpoint: EndpointRun,
        lease: Lease,
        begun_at: float,
        task_run_id: str | None,
        *,
        longest_wait: Callable[[], float],
    ) -> Outcome:
        # This process may have waited, or been suspended, for longer than the lease.
        while self._clock() - begun_at > self._store.lease_seconds / 2:
            begun_at = self._clock()
            if not await self._commits.begin([lease]):
                raise self._lost(lease)
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
        return await self._admission.watch(endpoint, attempt)

    async def attempt_all(
        self, endpoint: str, keys: Sequence[LeaseKey], *, task_run_id: str | None = None
    ) -> Chunk:
        """Make one attempt of each delivery in a chunk, and park every retry.

        Raises:
            StoreUnavailable: outcomes could not be written; these deliveries will be tried again.
        """
        leases = deque(lease for key in keys if (lease := self._in_flight.get(key)) is not None)
        chunk = Chunk(self._endpoints[endpoint], task_run_id)
        chunk.endpoint.chunks.discard(keys[0])
        try:
            # The first was admitted before its task run started.
            works = [self._send_admitted_in(chunk, leases.popleft())] if leases else []
            if chunk.endpoint.governs() or chunk.endpoint.rate.is_limited:
                # Do not begin deliveries ahead of their sends: a crash charges an attempt to each begun delivery.
                works += [self._send_admitted_in(chunk, leases.popleft()) for _ in range(len(leases))]
            elif leases:
                works.append(self._send_ahead_in(chunk, leases))
            await all_of(works)
            self._commits.hurry()
            await asyncio.gather(*chunk.writing)
            await asyncio.sleep(0)  # gather returns at once, before their callbacks, if all are done
        except Exception as error:
            self._running.fail(error)  # even if `emit_chunk` catches it
            raise
        if not self._running.is_over():
            chunk.counts.held, chunk.counts.left = chunk.counts.left, 0
        return chunk

    async def _send_ahead_in(self, chunk: Chunk, leases: deque[Lease]) -> None:
        await send_ahead(
            leases,
            begin=self._begin,
            place=partial(self._admission.admit, chunk.endpoint, is_begun=True),
            send=partial(self._send_begun, chunk),
            on_lost=partial(self._count_lost_in, chunk),
            on_left=partial(self._release_in, chunk),
            window=chunk.endpoint.window,
            clock=self._clock,
            is_over=lambda: self._running.is_over() or chunk.endpoint.governs(),
        )

    async def _send_begun(self, chunk: Chunk, lease: Lease, begun_at: float) -> None:
        if self._running.is_over():
            self._release_in(chunk, [lease])
        else:
            sending = self._send(
                chunk.endpoint, lease, begun_at, chunk.task_run_id, longest_wait=_longest_wait_in_chunk
            )
            await self._await_in(chunk, lease, sending)

    async def _send_admitted_in(self, chunk: Chunk, lease: Lease) -> None:
        sending = self._send_admitted(
            chunk.endpoint, lease, chunk.task_run_id, longest_wait=_longest_wait_in_chunk
        )
        await self._await_in(chunk, lease, sending)

    async def _await_in(self, chunk: Chunk, lease: Lease, sending: Awaitable[Outcome]) -> None:
        """Await a send of a chunk, and record its outcome without waiting for the commit."""
        try:
            outcome = await sending
        except (TimeIsUp, Held):
            self._release_in(chunk, [lease])
        except LeaseLost:
            chunk.counts.lost += 1
        except Expired:
            chunk.writing.append(self._expire([lease], self._counts, chunk.counts))
        else:
            recorded = self._record(outcome, is_urgent=False)
            recorded.add_done_callback(partial(self._settle_in_chunk, chunk, outcome))
            chunk.writing.append(recorded)

    def _release_in(self, chunk: Chunk, leases: Sequence[Lease]) -> None:
        """Release leases at once, since the chunk may wait for slow answers."""
        if not leases:
            return
        chunk.counts.left += len(leases)
        releasing = self._release(leases)
        # After an earlier error, nothing awaits this future, and asyncio would log its error.
        releasing.add_done_callback(lambda done: done.cancelled() or done.exception())
        chunk.writing.append(releasing)

    def waits_for_parked(self, now: float) -> bool:
        """Return whether a delivery that this run parked is due within ``WAIT_SECONDS`` after this time."""
        return now < self._waits_until <= now + WAIT_SECONDS

    def pop_next_due(self) -> float:
        """Return the earliest due time of the deliveries parked since the last call, by the store's clock."""
        first, self._next_due = self._next_due, math.inf
        return first

    async def release(self, lease: Lease) -> None:
        """Release a lease without charging an attempt.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        await self._release([lease])

    async def expire(self, leases: Sequence[Lease]) -> None:
        """Give up the deliveries of expired events, without an attempt.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        await self._expire(leases, self._counts)

    def _expire(self, leases: Sequence[Lease], *counts: Counts) -> asyncio.Future[set[LeaseKey]]:
        for lease in leases:
            self._in_flight.finish(lease)
        expiring = self._commits.expire(leases)
        self._in_flight.end_with(expiring, leases)
        expiring.add_done_callback(partial(_count_expired, len(leases), counts))
        return expiring

    async def _release_all(self, keys: Sequence[LeaseKey]) -> None:
        if leases := [lease for key in keys if (lease := self._in_flight.get(key)) is not None]:
            await self._release(leases)

    def _release(self, leases: Sequence[Lease]) -> asyncio.Future[set[LeaseKey]]:
        for lease in leases:
            self._in_flight.drop(lease)
        releasing = self._commits.release(leases)
        self._in_flight.end_with(releasing, leases)
        return releasing

    def _record(self, outcome: Outcome, *, is_urgent: bool = True) -> asyncio.Future[set[LeaseKey]]:
        if isinstance(outcome.decision, Retry):
            # Count it before the write, so that another delivery cannot take its place.
            self._in_flight.wait(outcome.lease)
            self._running.note_change()
        return self._commits.record(outcome, is_urgent=is_urgent)

    def _settle_in_chunk(
        self, chunk: Chunk, outcome: Outcome, recorded: asyncio.Future[set[LeaseKey]]
    ) -> None:
        if recorded.cancelled() or recorded.exception() is not None:
            return
        if not recorded.result():
            self._count_lost_in(chunk, outcome.lease)
            return
        self._settle(outcome)
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

    def _longest_wait(self) -> float:
        """Return how long a retry may wait in this process, so that a run does not outlive its end; 0 if it may not wait."""
        if not self._in_flight.may_wait or self._running.seconds_left() < WAIT_SECONDS:
            return 0.0
        return WAIT_SECONDS

    def _settle(self, outcome: Outcome) -> None:
        lease, decision = outcome.lease, outcome.decision
        self._counts.attempts += 1
        match decision:
            case Retry(delay=delay):
                if self._in_flight.count_attempt(lease, delay):
                    self._counts.retried += 1
                return
            case None:
                self._counts.delivered += 1
                self._in_flight.finish(lease)
            case Park(next_attempt_at=due_at):
                self._next_due = min(self._next_due, due_at)
                if not self._waits_for(due_at):
                    self._counts.parked += 1
                elif not lease.round_attempts:
                    self._counts.retried += 1
                self._in_flight.drop(lease)
            case GiveUp(reason=reason):
                self._counts.dead_letters[reason] += 1
                self._in_flight.finish(lease)

    def _waits_for(self, due_at: float) -> bool:
        """Return whether this run waits for a parked delivery that is due at this time; if so, remember the time."""
        if due_at > self._store.clock() + WAIT_SECONDS or self._running.seconds_left() < WAIT_SECONDS:
            return False
        self._waits_until = max(self._waits_until, due_at)
        return True

    def _lost(self, lease: Lease) -> LeaseLost:
        self._in_flight.drop(lease)
        self._counts.lost += 1
        return LeaseLost()

    def _count_lost_in(self, chunk: Chunk, lease: Lease) -> None:
        self._lost(lease)
        chunk.counts.lost += 1


def _count_expired(number: int, counts: Sequence[Counts], done: asyncio.Future[set[LeaseKey]]) -> None:
    if done.cancelled() or done.exception() is not None:
        return
    for each in counts:
        each.dead_letters["expired"] += len(done.result())
        each.lost += number - len(done.result())


def _longest_wait_in_chunk() -> float:
    return 0.0
