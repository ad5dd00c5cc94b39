"""The dispatcher: claim due deliveries and make attempts until none is due or a limit is reached.

The steps of one delivery::

    Dispatcher.run      claims the delivery and, when it may be sent, passes it to `emit_one` (in flows: a Prefect task run)
    Dispatcher.attempt  marks the attempt as begun, sends, decides, and records and returns the outcome
    emit_one            returns (delivered or parked), waits and calls `attempt` again (retry), or ends (given up)

With chunks (the lanes auto and bulk), `emit_chunk` receives many deliveries to one endpoint::

    Dispatcher.attempt_all  makes one attempt of each delivery, with large commits, and parks every retry
    emit_one                receives the first deliveries of a second (auto), and those that may have crashed a worker

The parts: `Endpoints` opens each endpoint on first use, as an `EndpointRun`; `Fetcher` claims, as `Flight`s; `Starter` starts
task runs once `Admission` and the gates let them send; `Attempts` makes attempts, and `Recorder` records them; `LeaseHeartbeat`
renews leases, and `RunningTasks` holds the tasks and the error that ends the run.

This module does not use Prefect: the clock, the random generator, the endpoints and `emit_one` are arguments.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from resonant.dispatch.claim import poll_times
from resonant.dispatch.claim.fetcher import Fetcher
from resonant.dispatch.claim.leases import LeaseHeartbeat, TakeOver
from resonant.dispatch.claim.looking import Lookout
from resonant.dispatch.claim.probes import ProbeTurns
from resonant.dispatch.counts import Counts
from resonant.dispatch.endpoints import Endpoints
from resonant.dispatch.flights.chunk import Chunk
from resonant.dispatch.flights.flights import Flights
from resonant.dispatch.gate_rows import GateRows
from resonant.dispatch.limiting.alone import SentAlone
from resonant.dispatch.limiting.limiter import ConcurrencyLimiter
from resonant.dispatch.limits import Limits
from resonant.dispatch.opening import Opener
from resonant.dispatch.run.background import Report, fold_regularly, wake_on_commits
from resonant.dispatch.run.running_tasks import RunningTasks
from resonant.dispatch.send.admission import Admission
from resonant.dispatch.send.attempt import Attempts
from resonant.dispatch.send.chunk import ChunkAttempt
from resonant.dispatch.send.recorder import Recorder
from resonant.dispatch.send.starting import Starter
from resonant.errors import StoreError
from resonant.store.shared.processes import has_ended, this_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from resonant.delivery.attempt import AttemptRunner, Destination
    from resonant.delivery.outcome import Outcome
    from resonant.dispatch.flights.endpoint_run import EndpointRun
    from resonant.dispatch.gate_rows import OnGateChange
    from resonant.dispatch.limiting.limiter import EndpointSlots
    from resonant.dispatch.run.running_tasks import Work
    from resonant.dispatch.send.starting import EmitChunk, EmitOne
    from resonant.dispatch.tracking import Tracker
    from resonant.events import Lease, LeaseKey
    from resonant.store import WorkerStore

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def _at_once() -> None:
    """Return without a delay."""


class Dispatcher:
    """One run over a store. Use it as an async context manager, which releases every lease on exit.

    Args:
        store: an open store, bound to the running event loop.
        attempt_runner: makes the attempts.
        open_destination: opens an endpoint by name; an error delays only that endpoint's deliveries.
        owner: the owner of the leases, e.g. the flow run's id.
        limits: the limits of the run.
        on_gate_change: called with the old and the new gate after this run has changed a gate's state.
        before_each: awaited before each delivery that is sent alone; it may delay the delivery.
        process: returns the name of this process, by which others recognise that it has ended.
        has_ended: returns whether the process with this name has ended for sure.
    """

    def __init__(
        self,
        store: WorkerStore,
        attempt_runner: AttemptRunner,
        open_destination: Callable[[str], Awaitable[Destination]],
        *,
        owner: str,
        limits: Limits | None = None,
        on_gate_change: OnGateChange = lambda _before, _after: None,
        before_each: Callable[[], Awaitable[None]] = _at_once,
        process: Callable[[], str | None] = this_process,
        has_ended: Callable[[str], bool] = has_ended,
    ) -> None:
        self.store = store
        self.owner = owner
        self.limits = limits = limits or Limits()
        self._limiter = ConcurrencyLimiter(
            limits.concurrency, limits.endpoint_concurrency, has_others=self._has_others
        )
        self._running = RunningTasks()
        self._flights = Flights(limits.max_waiting)
        opened: dict[str, EndpointRun] = {}
        self._gates = GateRows(store, owner, opened, on_change=on_gate_change, running=self._running)
        self._heartbeat = LeaseHeartbeat(store, owner, self._flights)
        self._report = partial(Report, store, owner, process=process)
        self._take_over = partial(TakeOver, store, self._heartbeat, has_ended)
        self._background = AsyncExitStack()
        recorder = Recorder(store, self._flights, self._running)
        admission = Admission(self._gates, self._limiter, self._running)
        self._attempts = Attempts(attempt_runner, admission, recorder)
        self._starter = Starter(admission, recorder, self._running, SentAlone(limits.alone), before_each)
        opener = Opener(
            store,
            owner,
            attempt_runner.rng,
            open_destination,
            limiter=self._limiter,
            gates=self._gates,
            flights=self._flights,
            running=self._running,
            with_chunks=lambda: self._starter.chunk_size > 0,
        )
        self._endpoints = Endpoints(store, opener.open, opened)

    def _has_others(self, slots: EndpointSlots) -> bool:
        opened = self._endpoints.opened.values()
        return any(each.flights.busy and each.slots is not slots for each in opened)

    @property
    def counts(self) -> Counts:
        """The outcomes so far."""
        return self._attempts.recorder.counts

    @property
    def problems(self) -> dict[str, str]:
        """The reasons why endpoints could not be opened, keyed by name; their deliveries wait."""
        return self._endpoints.problems

    async def attempt(self, key: LeaseKey, *, task_run_id: str | None = None) -> Outcome:
        """Make one attempt of a claimed delivery; see ``Attempts.attempt``."""
        return await self._attempts.attempt(key, task_run_id=task_run_id)

    async def attempt_all(self, chunk: Chunk, *, task_run_id: str | None = None) -> Chunk:
        """Make one attempt of each delivery in a chunk; see ``ChunkAttempt``."""
        return await ChunkAttempt(chunk, self._attempts, task_run_id).make()

    async def __aenter__(self) -> Self:
        await self._background.enter_async_context(self._running.beside([self._heartbeat.beat]))
        return self

    async def __aexit__(self, _kind: object, ended_by: object, _trace: object) -> None:
        try:
            await self._background.aclose()
            for endpoint in list(self._endpoints.opened.values()):
                await endpoint.rate.close()
            await self._attempts.recorder.commits.close()
            # Release even without a known lease: a claim may have been cancelled during its commit.
            await self.store.release_all(self.owner)
            await self._gates.leave()
        except StoreError as error:
            if not isinstance(ended_by, StoreError):  # avoids a second report of an outage
                logger.warning("leases were not released and will expire: %s", error)
        finally:
            await self._endpoints.close()

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the run, if any."""
        return self._running.failure

    async def run(
        self,
        emit_one: EmitOne,
        *,
        emit_chunk: EmitChunk | None = None,
        endpoint: str | None = None,
        own: Tracker | None = None,
        on_waiting: Callable[[float], None] = lambda _until: None,
    ) -> Counts:
        """Claim and emit due deliveries, until none is due or the time is up.

        The run takes over expired leases, and waits for live ones to end. It also waits for retries that it parked for less
        than ``WAIT_SECONDS``. With ``own``, it ends when those deliveries are settled, even if another worker sends them.

        Args:
            emit_one: makes the attempts of one delivery with ``attempt``, and waits between them. An error or a return
                without an attempt ends the run.
            emit_chunk: makes one attempt of each delivery in a chunk with ``attempt_all``; used if the limits have a
                ``chunk_size``. An error ends the run.
            endpoint: send only to this endpoint; None for all.
            own: tracks the deliveries to wait for, and their outcomes.
            on_waiting: called once if other workers hold the remaining deliveries, with the end of their last lease.

        Raises:
            EndpointError: the named endpoint cannot be opened.
            StoreUnavailable: the store became unreachable.
        """
        self._starter.begin(emit_one, emit_chunk, chunk_size=self.limits.chunk_size)
        if endpoint is not None:
            await self._waiting(partial(self._endpoints.open, endpoint))
        if own is not None:
            own.unavailable = self.problems
        report = self._report(endpoint, self.limits.successors)
        await self._waiting(report.send)
        self._running.begin(self.limits)
        self._gates.may_be_pilot = True
        take_over = self._take_over(endpoint=endpoint, on_waiting=on_waiting)
        opened = self._endpoints.opened.values()
        fetcher = Fetcher(
            self.store,
            self.owner,
            self._starter.chunk_size,
            limiter=self._limiter,
            flights=self._flights,
            lookout=Lookout(self.store, endpoint, self._endpoints, self._gates, take_over),
            probes=ProbeTurns(opened, stays=self._running.end is not None),
            is_over=self._running.is_over,
        )
        async with self._running.beside(self._work_beside(fetcher, report)):
            try:
                counts = await self._send_until_over(fetcher, take_over, own)
            except Exception as error:
                self._running.fail(error)  # recorded before the other tasks are cancelled
                raise
            finally:
                await self._running.cancel()  # before the last fold, which may take a second
        self._running.raise_failure()  # of the last fold
        return counts

    async def _send_until_over(self, fetcher: Fetcher, take_over: TakeOver, own: Tracker | None) -> Counts:
        recorder = self._attempts.recorder
        while True:
            self._running.forget_changes()
            self._running.raise_failure()
            if own is not None:
                await self._waiting(own.look_if_due)
                if self._running.end is None and own.is_settled:
                    self._running.end_in(0)  # the next run sends the remaining claims
            time_is_up, is_idle = self._running.is_over(), not self._running
            looked_at = self.store.clock()
            fetcher.look_in(recorder.pop_next_due() - looked_at)
            if not time_is_up:
                await self._waiting(partial(self._take_due, fetcher, is_idle=is_idle))
            goes_on = self._running.end is not None or (own is None and recorder.waits_for_parked(looked_at))
            if self._running or (goes_on and not time_is_up) or self._running.failure is not None:
                await self._running.wait_for_change(fetcher.pause)
            elif not time_is_up and not is_idle:
                continue  # the last task ended during the look, and may have released its delivery
            elif not time_is_up and await self._waiting(
                partial(self._wait_for_others, fetcher, take_over, own)
            ):
                continue
            elif self._running.failure is None:
                return self.counts

    def _work_beside(self, fetcher: Fetcher, report: Report) -> Iterator[Work]:
        """Yield the background work of a run: some only if it stays alive while nothing is due."""

        def wake(endpoints: frozenset[str] | None) -> None:
            fetcher.lookout.wake(endpoints)
            self._running.note_change()

        yield partial(fold_regularly, self.store)
        yield partial(report.repeat, self._running)
        if self._running.end is not None:
            if self.store.durability_problem:
                logger.warning("%s", self.store.durability_problem)
            yield partial(wake_on_commits, self.store, wake)

    async def _wait_for_others(self, fetcher: Fetcher, take_over: TakeOver, own: Tracker | None) -> bool:
        """Wait one poll interval if a worker or a gate still holds deliveries; return whether it waited."""
        if own is not None:
            await own.look()
            if own.is_settled:
                return False
        elif not fetcher.can_send_shortly():
            return await take_over.wait_for_leases()
        await asyncio.sleep(fetcher.pause)
        return True

    async def emit_given(self, emit_one: EmitOne, batches: AsyncIterator[list[Lease]]) -> Counts:
        """Emit deliveries that this owner has already leased, and wait for all of them.

        The next batch is requested only while fewer than twice ``concurrency`` deliveries are being sent, and while memory has
        room.

        Args:
            emit_one: as in ``run``.
            batches: leases of this owner.

        Raises:
            EndpointError: an endpoint cannot be opened; the leases are released.
            StoreUnavailable: the store became unreachable.
        """
        self._starter.begin(emit_one)
        self._gates.may_be_pilot = False
        report = self._report()
        await self._waiting(report.send)
        repeated = self._running.beside([partial(report.repeat, self._running)])
        await self._background.enter_async_context(repeated)
        try:
            async for leases in batches:
                await self._waiting(self._gates.read_if_old)
                held = []
                for lease in leases:
                    endpoint = await self._waiting(partial(self._endpoints.open, lease.endpoint))
                    # Release held deliveries, so that any run may send them.
                    if endpoint.claim_limit() == 0:
                        held.append((lease, endpoint))
                    else:
                        self._starter.start([self._flights.claim(lease, endpoint)], self.store.clock())
                if held:
                    await self._attempts.recorder.release([self._flights.claim(*each) for each in held])
                while (
                    self._flights.counts.busy >= 2 * self.limits.concurrency or self._flights.bytes_left <= 0
                ):
                    await self._next_change()
            while self._running:
                await self._next_change()
            await self._gates.leave()
            self._running.raise_failure()
        except Exception as error:
            self._running.fail(error)  # recorded before the other tasks are cancelled
            raise
        finally:
            await self._running.cancel()
        return self.counts

    async def _waiting(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Repeat an operation while the store is unavailable."""
        return await self._running.outlast(operation, self.store.lease_seconds / 3)

    async def _next_change(self) -> None:
        await self._waiting(self._gates.read_if_old)
        self._running.forget_changes()
        if self._running.failure is None and self._running:
            await self._running.wait_for_change(poll_times.POLL_SECONDS)
        self._running.raise_failure()

    async def _take_due(self, fetcher: Fetcher, *, is_idle: bool) -> None:
        async for flights in fetcher.take(is_idle=is_idle):
            self._starter.start(flights, self.store.clock())

    async def unavailable_endpoints(self, names: Iterable[str]) -> dict[str, str]:
        """Return the endpoints that cannot be opened, with the reasons."""
        return {name: self.problems[name] for name in names if not await self._endpoints.is_open(name)}
