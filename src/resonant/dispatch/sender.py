"""Makes attempts, and records each with its decision before reporting it."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.dispatch.admission import Held
from resonant.dispatch.batch_writer import BatchWriter
from resonant.dispatch.bulk import all_of, send_ahead
from resonant.dispatch.summary import MOST_SHOWN, ChunkSummary
from resonant.store.engine.availability import retry_while_unavailable
from resonant.store.queue.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from resonant.delivery.attempt import AttemptRunner, Report
    from resonant.dispatch.admission import Gatekeeper
    from resonant.dispatch.destinations import Destinations
    from resonant.dispatch.in_flight import InFlight
    from resonant.dispatch.running_tasks import RunningTasks
    from resonant.dispatch.summary import Summary
    from resonant.events import Clock, Lease, LeaseKey
    from resonant.store import WorkerStore

# A run waits for its own retries that are due within this time, in seconds, even if they are parked. In this time before its
# end, a bounded run parks retries, since waiting for them would delay the next run.
WAIT_SECONDS = 30.0


class LeaseLost(Exception):
    """Another worker has the lease. Nothing may be sent, and only history was written."""


class TimeIsUp(Exception):
    """The run is over, and this delivery was released before its send."""


@dataclass(slots=True)
class _Chunk:
    """The state of a chunk that is being sent.

    Attributes:
        task_run_id: stored in the history.
        writing: the pending writes of attempts and releases.
        left: number of deliveries that were released without a send.
        done: the outcomes of the chunk.
    """

    task_run_id: str | None
    writing: list[asyncio.Future[Any]] = field(default_factory=list)
    left: int = 0
    done: ChunkSummary = field(default_factory=ChunkSummary)


class Sender:
    """Makes the attempts of one run.

    Args:
        store: records each attempt.
        attempt_runner: makes each attempt.
        gates: limit the sends.
        in_flight: the leases of the run.
        destinations: the open endpoints.
        running: receives errors, which end the run.
        summary: counts the results.

    Attributes:
        parks_retries: whether every retry waits in the store, as in the bulk lane.
    """

    def __init__(
        self,
        store: WorkerStore,
        attempt_runner: AttemptRunner,
        *,
        gates: Gatekeeper,
        in_flight: InFlight,
        destinations: Destinations,
        running: RunningTasks,
        summary: Summary,
    ) -> None:
        self._store = store
        self._attempt_runner = attempt_runner
        self._gates = gates
        self._in_flight = in_flight
        self._destinations = destinations
        self._running = running
        self._summary = summary
        self._patience = store.lease_seconds / 3
        self._commits = BatchWriter(store, patience=self._patience, outlasts=running.outlasts)
        self._clock = _clock_that_never_stops(store)
        self.parks_retries = False
        # When the last parked delivery that this run waits for is due, by the store's clock.
        self._waits_until = 0.0
        self._parked_until = math.inf

    async def close(self) -> None:
        """Finish all queued writes.

        Raises:
            StoreError: a write failed.
        """
        await self._commits.close()

    async def attempt(self, key: LeaseKey, *, task_run_id: str | None = None) -> Report:
        """See ``Dispatcher.attempt``."""
        if (lease := self._in_flight.get(key)) is None:
            raise LeaseLost
        try:
            return await self._attempt(lease, task_run_id)
        except (LeaseLost, TimeIsUp, Held):
            raise
        except Exception as error:
            self._running.fail(error)  # even if `emit_one` catches it
            raise

    async def _attempt(self, lease: Lease, task_run_id: str | None) -> Report:
        self._in_flight.resume(lease)
        try:
            report = await self._send_alone(lease, task_run_id)
        except (TimeIsUp, Held):
            await self._hand_back(lease)
            raise
        # Record after freeing the slot, so that the next sends begin in the same transaction.
        if not await self._record(report):
            raise self._lost(lease)
        self._settle(report)
        return report

    async def _send_alone(self, lease: Lease, task_run_id: str | None) -> Report:
        rates = self._destinations.rates
        slot = await rates.take(lease.endpoint)
        try:
            async with self._gates.admit(lease):
                if self._running.is_over():
                    raise TimeIsUp
                begun_at = self._clock()
                if not await self._commits.begin(lease):
                    raise self._lost(lease)
                if not await rates.wait(lease.endpoint, slot):
                    raise TimeIsUp
                if self._gates.stops(lease.endpoint):
                    raise Held(self._gates.gate(lease.endpoint))
                return await self._send(lease, begun_at, task_run_id)
        finally:
            rates.free(lease.endpoint, slot)

    async def _send(self, lease: Lease, begun_at: float, task_run_id: str | None) -> Report:
        # This process may have waited, or been suspended, for longer than the lease.
        while self._clock() - begun_at > self._store.lease_seconds / 2:
            begun_at = self._clock()
            if not await self._commits.begin(lease):
                raise self._lost(lease)
        attempt = self._attempt_runner.attempt(
            lease,
            self._destinations[lease.endpoint],
            longest_wait=self._longest_wait,
            gate=partial(self._gates.view, lease.endpoint),
            task_run_id=task_run_id,
        )
        return await self._gates.watch(lease, attempt)

    async def attempt_all(
        self, endpoint: str, keys: Sequence[LeaseKey], *, task_run_id: str | None = None
    ) -> ChunkSummary:
        """See ``Dispatcher.attempt_all``."""
        leases = [lease for key in keys if (lease := self._in_flight.get(key)) is not None]
        chunk = _Chunk(task_run_id)
        try:
            if self._gates.governs(endpoint) or self._destinations.rates.limits(endpoint):
                # Do not begin deliveries ahead of their sends: a crash charges an attempt to each begun delivery.
                await all_of([asyncio.create_task(self._send_admitted(lease, chunk)) for lease in leases])
            else:
                await send_ahead(
                    leases,
                    begin=self._commits.begin_all,
                    place=self._place,
                    send=partial(self._send_begun, chunk=chunk),
                    on_lost=partial(self._count_lost_in, chunk.done),
                    on_left=partial(self._leave, chunk),
                    window=self._destinations.window(endpoint),
                    clock=self._clock,
                    is_over=lambda: self._running.is_over() or self._gates.governs(endpoint),
                )
            await asyncio.gather(*chunk.writing)
        except Exception as error:
            self._running.fail(error)  # even if `emit_chunk` catches it
            raise
        if self._running.is_over():
            chunk.done.left = chunk.left
        else:
            chunk.done.held = chunk.left
        return chunk.done

    @asynccontextmanager
    async def _place(self, lease: Lease) -> AsyncIterator[bool]:
        """Wait until a begun delivery may be sent; yield whether to send it, or to release it."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._gates.admit(lease, is_begun=True))
            except Held:
                may_send = False
            else:
                may_send = not self._running.is_over()
            yield may_send

    async def _send_begun(self, lease: Lease, begun_at: float, *, chunk: _Chunk) -> None:
        try:
            report = await self._send(lease, begun_at, chunk.task_run_id)
        except LeaseLost:
            chunk.done.lost += 1
        else:
            self._record_in(chunk, report)

    async def _send_admitted(self, lease: Lease, chunk: _Chunk) -> None:
        try:
            report = await self._send_alone(lease, chunk.task_run_id)
        except (TimeIsUp, Held):
            self._leave(chunk, [lease])
        except LeaseLost:
            chunk.done.lost += 1
        else:
            self._record_in(chunk, report)

    def _record_in(self, chunk: _Chunk, report: Report) -> None:
        recorded = self._record(report)
        recorded.add_done_callback(partial(self._settle_in_chunk, report, chunk.done))
        chunk.writing.append(recorded)

    def _leave(self, chunk: _Chunk, leases: Sequence[Lease]) -> None:
        """Release leases at once, since the chunk may wait for slow answers."""
        chunk.left += len(leases)
        for lease in leases:
            handing_back = asyncio.ensure_future(self._hand_back(lease))
            # After an earlier error, nothing awaits this task, and asyncio would log its error.
            handing_back.add_done_callback(_mark_seen)
            chunk.writing.append(handing_back)

    def waits_at(self, now: float) -> bool:
        """Return whether a delivery that this run parked is due within ``WAIT_SECONDS`` after this time."""
        return now < self._waits_until <= now + WAIT_SECONDS

    def take_parked_until(self) -> float:
        """Return the earliest due time of the deliveries parked since the last call, by the store's clock."""
        first, self._parked_until = self._parked_until, math.inf
        return first

    async def _hand_back(self, lease: Lease) -> None:
        self._in_flight.drop(lease)
        await self._commits.release(lease)

    async def hand_back(self, leases: list[Lease]) -> None:
        """Release leases without charging attempts."""
        for lease in leases:
            self._in_flight.drop(lease)
        if leases:
            await retry_while_unavailable(
                lambda: self._store.release(leases), self._patience, outlasts=self._running.outlasts
            )

    def _record(self, report: Report) -> asyncio.Future[bool]:
        lease, decision = report.lease, report.decision
        if isinstance(decision, Retry):
            # Count it before the write, so that another delivery cannot take its place.
            self._in_flight.wait(lease)
            self._running.note_change()
        return self._commits.record(Outcome(lease, report.attempt, decision))

    def _settle_in_chunk(self, report: Report, done: ChunkSummary, recorded: asyncio.Future[bool]) -> None:
        if recorded.cancelled() or recorded.exception() is not None:
            return
        if not recorded.result():
            self._count_lost_in(done, report.lease)
            return
        self._settle(report)
        if report.decision is None:
            done.delivered += 1
        elif not isinstance(report.decision, GiveUp):
            done.parked[report.attempt.code or "unknown"] += 1
        else:
            done.dead_letters += 1
            if len(done.shown) < MOST_SHOWN:
                done.shown.append(report)

    def _longest_wait(self) -> float:
        """Return how long a retry may wait in this process, so that a run does not outlive its end; 0 if it may not wait."""
        if self.parks_retries or not self._in_flight.may_wait or self._running.ends_within(WAIT_SECONDS):
            return 0.0
        return WAIT_SECONDS

    def _settle(self, report: Report) -> None:
        lease, decision = report.lease, report.decision
        self._summary.attempts += 1
        match decision:
            case Retry(delay=delay):
                if self._in_flight.count_attempt(lease, delay):
                    self._summary.retried += 1
                return
            case None:
                self._summary.delivered += 1
                self._in_flight.finish(lease)
            case Park(next_attempt_at=due_at):
                self._parked_until = min(self._parked_until, due_at)
                if not self._waits_for(due_at):
                    self._summary.parked += 1
                elif not lease.round_attempts:
                    self._summary.retried += 1
            case GiveUp(reason=reason):
                self._summary.dead_letters[reason] += 1
                self._in_flight.finish(lease)
        self._in_flight.drop(lease)

    def _waits_for(self, due_at: float) -> bool:
        """Return whether this run waits for a parked delivery that is due at this time; if so, remember the time."""
        if due_at > self._store.clock() + WAIT_SECONDS or self._running.ends_within(WAIT_SECONDS):
            return False
        self._waits_until = max(self._waits_until, due_at)
        return True

    def _lost(self, lease: Lease) -> LeaseLost:
        self._count_lost(lease)
        return LeaseLost()

    def _count_lost_in(self, done: ChunkSummary, lease: Lease) -> None:
        self._count_lost(lease)
        done.lost += 1

    def _count_lost(self, lease: Lease) -> None:
        self._in_flight.drop(lease)
        self._summary.lost += 1


def _clock_that_never_stops(store: WorkerStore) -> Clock:
    """Return a clock that also runs while the machine sleeps: on Linux the time since boot, elsewhere the store's clock."""
    if sys.platform == "linux":
        return partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    return store.clock


def _mark_seen(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()
