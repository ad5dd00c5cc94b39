"""The dispatcher: claim due deliveries and make attempts until none is due or a limit is reached.

The steps of one delivery::

    Dispatcher.run      claims the delivery and, when it may be sent, passes it to `emit_one` (in flows: a Prefect task run)
    Dispatcher.attempt  marks the attempt as begun, sends, decides, and records and returns the outcome
    emit_one            returns (delivered or parked), waits and calls `attempt` again (retry), or ends (given up)

With chunks (the lanes auto and bulk), `emit_chunk` receives many deliveries to one endpoint::

    Dispatcher.attempt_all  makes one attempt of each delivery, with large commits, and parks every retry
    emit_one                receives the first deliveries of a second (auto), and those that may have crashed a worker

The parts: `Endpoints` opens each endpoint on first use, as an `EndpointRun`; `Fetcher` claims, `Admission` and `GateRows` ask
the gates, `Sender` makes and records attempts, `LeaseHeartbeat` renews leases, and `RunningTasks` holds the tasks and the error
that ends the run.

This module does not use Prefect: the clock, the random generator, the endpoints and `emit_one` are arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from resonant.dispatch.claim import poll_times
from resonant.dispatch.claim.fetcher import Fetcher
from resonant.dispatch.claim.leases import LeaseHeartbeat, TakeOver
from resonant.dispatch.counts import Counts
from resonant.dispatch.endpoints import Endpoints
from resonant.dispatch.flights.chunk import Chunk
from resonant.dispatch.flights.counts import FlightCounts, State
from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.dispatch.flights.flights import Flights
from resonant.dispatch.gate_rows import GateRows
from resonant.dispatch.limiting.ahead import FIRST_CHUNK, FIRST_CLAIM, ClaimSize, PrefetchWindow
from resonant.dispatch.limiting.alone import SentAlone
from resonant.dispatch.limiting.limiter import ConcurrencyLimiter
from resonant.dispatch.limiting.rate import NoRate, Rate
from resonant.dispatch.limits import Limits
from resonant.dispatch.run.background import Report, fold_regularly, wake_on_commits
from resonant.dispatch.run.running_tasks import RunningTasks
from resonant.dispatch.send.admission import Admission
from resonant.dispatch.send.sender import ChunkSender, Recorder, Sender
from resonant.dispatch.send.unsent import Expired, Held, LeaseLost, TimeIsUp
from resonant.errors import StoreError
from resonant.gate.controller import EndpointGate
from resonant.store.engine.availability import retry_while_unavailable
from resonant.store.shared.send_slots import reserve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from resonant.delivery.attempt import AttemptRunner, Destination
    from resonant.dispatch.flights.flight import Flight
    from resonant.dispatch.gate_rows import OnGateChange
    from resonant.dispatch.limiting.limiter import EndpointSlots
    from resonant.dispatch.run.running_tasks import Work
    from resonant.dispatch.tracking import Tracker
    from resonant.events import Lease
    from resonant.store import WorkerStore
    from resonant.store.shared.send_slots import Reservation

logger = logging.getLogger(__name__)

T = TypeVar("T")

EmitOne = Callable[["Lease"], Awaitable[None]]
EmitChunk = Callable[[Chunk], Awaitable[object]]


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

    Attributes:
        counts: the outcomes so far.
        problems: the reasons why endpoints could not be opened, keyed by name; their deliveries wait.
        attempt: makes one attempt of a claimed delivery; see ``Sender.attempt``.
        attempt_all: makes one attempt of each delivery in a chunk; see ``ChunkSender.attempt_all``.
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
    ) -> None:
        self.store = store
        self.owner = owner
        self.limits = limits = limits or Limits()
        self.counts = Counts()
        self._rng = attempt_runner.rng
        self._open_destination = open_destination
        self._before_each = before_each
        self._limiter = ConcurrencyLimiter(
            limits.concurrency, limits.endpoint_concurrency, has_others=self._has_others
        )
        self._patience = store.lease_seconds / 3
        self._running = RunningTasks()
        # Others need connections of the store, too, while a transaction locks the slots of many endpoints.
        self._reserving = asyncio.Semaphore(4)
        self._endpoints = Endpoints(store, self._open_endpoint)
        self.problems, self._opened = self._endpoints.problems, self._endpoints.opened
        self._flights = Flights(limits.max_waiting)
        self._heartbeat = LeaseHeartbeat(store, owner, self._flights)
        self._background = AsyncExitStack()
        self._gates = GateRows(store, owner, self._opened, on_change=on_gate_change, running=self._running)
        self._recorder = Recorder(store, self._flights, self._running, self.counts)
        self._sender = Sender(
            store,
            attempt_runner,
            admission=Admission(self._gates, self._limiter, self._running),
            recorder=self._recorder,
            flights=self._flights,
            running=self._running,
        )
        self._chunks = ChunkSender(self._sender)
        self.attempt, self.attempt_all = self._sender.attempt, self._chunks.attempt_all
        self._alone = SentAlone(limits.alone)
        self._emit_one: EmitOne
        self._emit_chunk: EmitChunk | None = None

    def _has_others(self, slots: EndpointSlots) -> bool:
        return any(each.flights.busy and each.slots is not slots for each in self._opened.values())

    async def _open_endpoint(self, name: str) -> EndpointRun:
        destination = await self._open_destination(name)
        slots = self._limiter.slots(destination.concurrency)
        rate: Rate | NoRate = NoRate()
        if destination.rate is not None:
            is_over = self._running.is_over
            rate = Rate(name, destination.rate, slots.limit, self._reserve, is_over=is_over)
        return EndpointRun(
            name,
            destination,
            gate=EndpointGate(self._gates.rows[name], self.owner, self._rng),
            slots=slots,
            rate=rate,
            window=PrefetchWindow(slots.limit),
            claims=ClaimSize(FIRST_CHUNK if self._chunk_size else FIRST_CLAIM),
            clock=self.store.clock,
            flights=FlightCounts(self._flights.counts),
        )

    async def _reserve(self, endpoint: str, **options: Any) -> Reservation:
        async def reserve_once() -> Reservation:
            async with self._reserving:
                return await self.store.write(reserve, endpoint, clock=self.store.clock, **options)

        return await self._waiting(reserve_once)

    async def __aenter__(self) -> Self:
        await self._background.enter_async_context(self._running.beside([self._heartbeat.beat]))
        return self

    async def __aexit__(self, _kind: object, ended_by: object, _trace: object) -> None:
        try:
            await self._background.aclose()
            for endpoint in list(self._opened.values()):
                await endpoint.rate.close()
            await self._recorder.close()
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
        self._emit_one, self._emit_chunk = emit_one, emit_chunk
        if endpoint is not None:
            await self._waiting(partial(self._endpoints.open, endpoint))
        if own is not None:
            own.unavailable = self.problems
        report = Report(self.store, self.owner, endpoint, self.limits.successors)
        await self._waiting(report.send)
        self._running.begin(self.limits)
        self._gates.may_be_pilot = True
        take_over = TakeOver(self.store, self._heartbeat, endpoint=endpoint, on_waiting=on_waiting)
        fetcher = Fetcher(
            self.store,
            owner=self.owner,
            endpoint=endpoint,
            chunk_size=self._chunk_size,
            endpoints=self._endpoints,
            gates=self._gates,
            limiter=self._limiter,
            flights=self._flights,
            take_over=take_over,
            is_over=self._running.is_over,
            stays=self._running.end is not None,
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
        while True:
            self._running.forget_changes()
            self._running.raise_failure()
            if own is not None:
                await self._waiting(own.look_if_due)
                if self._running.end is None and own.is_settled:
                    self._running.end_in(0)  # the next run sends the remaining claims
            time_is_up, is_idle = self._running.is_over(), not self._running
            looked_at = self.store.clock()
            fetcher.look_in(self._recorder.pop_next_due() - looked_at)
            if not time_is_up:
                await self._waiting(partial(self._take_due, fetcher, is_idle=is_idle))
            goes_on = self._running.end is not None or (
                own is None and self._recorder.waits_for_parked(looked_at)
            )
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
            fetcher.wake(endpoints)
            self._running.note_change()

        yield partial(fold_regularly, self.store)
        yield partial(report.repeat, self._running)
        if self._running.end is not None:
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
        self._emit_one, self._emit_chunk = emit_one, None
        self._gates.may_be_pilot = False
        report = Report(self.store, self.owner)
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
                        for each in self._without_expired([self._flights.claim(lease, endpoint)]):
                            self._start(each)
                await self._recorder.release([self._flights.claim(*each) for each in held])
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
        return await retry_while_unavailable(operation, self._patience, outlasts=self._running.outlasts)

    async def _next_change(self) -> None:
        await self._waiting(self._gates.read_if_old)
        self._running.forget_changes()
        if self._running.failure is None and self._running:
            await self._running.wait_for_change(poll_times.POLL_SECONDS)
        self._running.raise_failure()

    async def _take_due(self, fetcher: Fetcher, *, is_idle: bool) -> None:
        async for flights in fetcher.take(is_idle=is_idle):
            self._start_claimed(self._without_expired(flights))

    @property
    def _chunk_size(self) -> int:
        return 0 if self._emit_chunk is None else self.limits.chunk_size

    def _without_expired(self, flights: list[Flight]) -> list[Flight]:
        """Give up the deliveries of expired events in the background; return the other flights."""
        now = self.store.clock()
        if expired := [flight for flight in flights if flight.lease.event.has_expired(now)]:
            self._running.start(self._expire(expired))
            flights = [flight for flight in flights if not flight.lease.event.has_expired(now)]
        return flights

    async def _expire(self, flights: list[Flight]) -> None:
        await self._recorder.expire(flights)

    def _start_claimed(self, flights: list[Flight]) -> None:
        """Start flights of one endpoint: some alone, the others in chunks."""
        size = self._chunk_size
        if self._emit_chunk is None or not size:
            for flight in flights:
                self._start(flight)
            return
        # A delivery that may have crashed a worker is sent alone, so that it cannot crash a whole chunk again.
        together = [flight for flight in flights if not flight.lease.crashes]
        now, counts = asyncio.get_running_loop().time(), self._flights.counts
        waiting = counts.busy - counts.by_state[State.SENDING] - len(flights)
        alone = self._alone.start(len(together), now, waiting=waiting)
        for flight in [*(flight for flight in flights if flight.lease.crashes), *together[:alone]]:
            self._start(flight)
        for start in range(alone, len(together), size):
            chunk = Chunk.of(together[start].endpoint, together[start : start + size])
            self._running.start(self._emit_all(self._emit_chunk, chunk))

    def _start(self, flight: Flight) -> None:
        self._running.start(self._emit(flight))

    async def _emit_all(self, emit_chunk: EmitChunk, chunk: Chunk) -> None:
        with contextlib.suppress(TimeIsUp, Held):
            async with self._chunks.admitted(chunk):
                await emit_chunk(chunk)
        chunk.begin()
        for flight in chunk.flights:
            if not flight.has_ended:
                raise RuntimeError(f"emit_chunk returned without attempting {flight.lease.event.id}")

    async def _emit(self, flight: Flight) -> None:
        with contextlib.suppress(LeaseLost, TimeIsUp, Held, Expired):
            await self._before_each()
            async with self._sender.admitted([flight]):
                await self._emit_one(flight.lease)
        if flight.has_ended:
            return
        if not flight.retried:
            raise RuntimeError(f"emit_one returned without attempting {flight.lease.event.id}")
        # `emit_one` did not wait for the retry: park the delivery, so that any worker can retry it when it is due.
        self.counts.parked += 1
        await self._recorder.release([flight])

    async def unavailable_endpoints(self, names: Iterable[str]) -> dict[str, str]:
        """Return the endpoints that cannot be opened, with the reasons."""
        return {name: self.problems[name] for name in names if not await self._endpoints.is_open(name)}
