"""The dispatcher: claim due deliveries and make attempts until none is due or a limit is reached.

The steps of one delivery::

    Dispatcher.run      claims the delivery and passes it to `emit_one` (in flows: a Prefect task run)
    Dispatcher.attempt  marks the attempt as begun, sends, decides, records the outcome and returns a report
    emit_one            returns (delivered or parked), waits and calls `attempt` again (retry), or ends (given up)

In the bulk lane, `emit_chunk` receives many deliveries to one endpoint::

    Dispatcher.attempt_all  makes one attempt of each delivery, with large commits, and parks every retry
    emit_one                receives deliveries that may have crashed a worker, so that they cannot crash a chunk

The parts: `Fetcher` claims, `Sender` makes and records attempts, `Destinations` opens endpoints, `LeaseHeartbeat` renews
leases, and `RunningTasks` holds the tasks and the error that ends the run.

This module does not use Prefect: the clock, the random generator, the endpoints and `emit_one` are arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from resonant.dispatch import fetcher as fetching
from resonant.dispatch.admission import Gatekeeper, Held
from resonant.dispatch.destinations import Destinations
from resonant.dispatch.fetcher import Fetcher, Plan
from resonant.dispatch.heartbeat import LeaseHeartbeat
from resonant.dispatch.in_flight import InFlight
from resonant.dispatch.limiter import ConcurrencyLimiter
from resonant.dispatch.limits import Limits
from resonant.dispatch.rate import RateLimiter, reserving
from resonant.dispatch.running_tasks import RunningTasks
from resonant.dispatch.secret_rotation import Signing
from resonant.dispatch.sender import LeaseLost, Sender, TimeIsUp
from resonant.dispatch.succession import end_when_succeeded
from resonant.dispatch.summary import Summary
from resonant.dispatch.wakeup import wake_on_commits
from resonant.errors import StoreError
from resonant.store.engine.availability import retry_while_unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence

    from resonant.delivery.attempt import AttemptRunner, Destination, Report
    from resonant.dispatch.admission import OnGateChange
    from resonant.dispatch.summary import ChunkSummary
    from resonant.dispatch.tracking import Tracker
    from resonant.events import Lease, LeaseKey
    from resonant.store import WorkerStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

EmitOne = Callable[["Lease"], Awaitable[None]]
EmitChunk = Callable[["list[Lease]"], Awaitable[None]]


class Dispatcher:
    """One run over a store. Use it as an async context manager, which releases every lease on exit.

    Args:
        store: an open store, bound to the running event loop.
        attempt_runner: makes the attempts.
        open_destination: opens an endpoint by name; an error delays only that endpoint's deliveries.
        owner: the owner of the leases, e.g. the flow run's id.
        limits: the limits of the run.
        on_gate_change: called with the old and the new gate after this run has changed a gate's state.
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
    ) -> None:
        self.store = store
        self.owner = owner
        self.limits = limits = limits or Limits()
        self.summary = Summary()
        self._limiter = ConcurrencyLimiter(limits.concurrency, limits.endpoint_concurrency)
        self._patience = store.lease_seconds / 3
        self._in_flight = InFlight(limits.max_waiting)
        self._running = RunningTasks()
        self._heartbeat = LeaseHeartbeat(store, owner, self._in_flight, self._running.fail)
        self._rates = RateLimiter(
            reserving(store, self._patience, self._running.outlasts), is_over=self._running.is_over
        )
        self._gates = Gatekeeper(
            store,
            owner,
            limiter=self._limiter,
            in_flight=self._in_flight,
            rng=attempt_runner.rng,
            on_change=on_gate_change,
            running=self._running,
        )
        self._signing = Signing(store, owner)
        self._destinations = Destinations(
            store,
            open_destination,
            limiter=self._limiter,
            rates=self._rates,
            signing=self._signing,
            problems=self.summary.unknown_endpoints,
        )
        self._sender = Sender(
            store,
            attempt_runner,
            gates=self._gates,
            in_flight=self._in_flight,
            destinations=self._destinations,
            running=self._running,
            summary=self.summary,
        )
        self._look_at_gates_at = 0.0
        self._emit_one: EmitOne
        self._emit_chunk: EmitChunk | None = None

    async def __aenter__(self) -> Self:
        self._heartbeat.start()
        self._signing.start()
        return self

    async def __aexit__(self, _kind: object, ended_by: object, _trace: object) -> None:
        try:
            await self._heartbeat.stop()
            await self._signing.stop()
            await self._rates.close()
            await self._sender.close()
            # Release even without a known lease: a claim may have been cancelled during its commit.
            await self.store.release_all(self.owner)
            await self._gates.leave()
            await self._signing.leave()
        except StoreError as error:
            if not isinstance(ended_by, StoreError):  # avoids a second report of an outage
                logger.warning("leases were not released and will expire: %s", error)
        finally:
            await self._destinations.close()

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the run, if any."""
        return self._running.failure

    async def attempt(self, key: LeaseKey, *, task_run_id: str | None = None) -> Report:
        """Make one attempt, and record it with its decision.

        Raises:
            LeaseLost: another worker has the delivery, or this worker has a newer lease.
            TimeIsUp: the run's time was up before the send; the delivery was released without charging an attempt.
            Held: the endpoint's gate holds the delivery, which was released without charging an attempt.
            StoreUnavailable: the outcome could not be written; the delivery will be tried again.
        """
        return await self._sender.attempt(key, task_run_id=task_run_id)

    async def attempt_all(
        self, endpoint: str, keys: Sequence[LeaseKey], *, task_run_id: str | None = None
    ) -> ChunkSummary:
        """Make one attempt of each delivery in a chunk, and park every retry.

        Raises:
            StoreUnavailable: outcomes could not be written; these deliveries will be tried again.
        """
        return await self._sender.attempt_all(endpoint, keys, task_run_id=task_run_id)

    async def run(
        self,
        emit_one: EmitOne,
        *,
        emit_chunk: EmitChunk | None = None,
        endpoint: str | None = None,
        take_over: bool = False,
        own: Tracker | None = None,
        on_waiting: Callable[[float], None] = lambda _until: None,
    ) -> Summary:
        """Claim and emit due deliveries, until none is due or the time is up.

        The run waits for retries that it parked for less than ``WAIT_SECONDS``. With ``own``, it ends when those
        deliveries are settled, even if another worker sends them.

        Args:
            emit_one: makes the attempts of one delivery with ``attempt``, and waits between them. An error or a return
                without an attempt ends the run.
            emit_chunk: makes one attempt of each delivery in a chunk with ``attempt_all``; used if the limits have a
                ``chunk_size``. An error ends the run.
            endpoint: send only to this endpoint; None for all.
            take_over: also take over expired leases, and wait for live ones to end (with ``own``, only those of ``own``).
            own: tracks the deliveries to wait for, and their outcomes.
            on_waiting: called once if other workers hold the remaining deliveries, with the end of their last lease.

        Raises:
            EndpointError: the named endpoint cannot be opened.
            StoreUnavailable: the store became unreachable.
        """
        if endpoint is not None:
            await self._waiting(partial(self._destinations.open, endpoint))
        self._running.begin(self.limits)
        self._emit_one, self._emit_chunk = emit_one, emit_chunk
        self._sender.parks_retries = bool(self._chunk_size)
        self._gates.keeps_place = True
        fetcher = Fetcher(
            self.store,
            Plan(self.owner, endpoint, take_over, self._chunk_size, on_waiting),
            gates=self._gates,
            in_flight=self._in_flight,
            destinations=self._destinations,
            heartbeat=self._heartbeat,
            is_over=self._running.is_over,
        )
        try:
            async with self._running.beside(self._work_beside(fetcher, endpoint)):
                return await self._send_until_over(fetcher, own)
        except Exception as error:
            self._running.fail(error)  # recorded before the other tasks are cancelled
            raise
        finally:
            await self._running.cancel()
            await fetcher.stop()

    async def _send_until_over(self, fetcher: Fetcher, own: Tracker | None) -> Summary:
        while True:
            self._running.forget_changes()
            self._running.raise_failure()
            if own is not None:
                await self._waiting(own.look_if_due)
                if self._running.end is None and own.is_settled:
                    self._running.end_in(0)  # the next run sends the remaining claims
            time_is_up, is_idle = self._running.is_over(), not self._running
            looked_at = self.store.clock()
            fetcher.look_in(self._sender.take_parked_until() - looked_at)
            if not time_is_up:
                await self._waiting(partial(self._take_due, fetcher, is_idle=is_idle))
            goes_on = self._running.end is not None or (own is None and self._sender.waits_at(looked_at))
            if self._running or (goes_on and not time_is_up) or self._running.failure is not None:
                await self._running.wait_for_change(fetcher.pause)
            elif not time_is_up and not is_idle:
                continue  # the last task ended during the look, and may have released its delivery
            elif not time_is_up and await self._waiting(partial(self._has_to_wait, fetcher, own)):
                continue
            elif self._running.failure is None:
                return self.summary

    def _work_beside(self, fetcher: Fetcher, endpoint: str | None) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield the background work of a run that stays alive while nothing is due."""

        def wake(endpoints: frozenset[str] | None) -> None:
            fetcher.wake(endpoints)
            self._running.note_change()

        if self._running.end is not None:
            yield wake_on_commits(self.store, wake)
        if self.limits.successors:
            yield end_when_succeeded(
                self.store,
                self._running,
                owner=self.owner,
                endpoint=endpoint,
                successors=self.limits.successors,
            )

    async def _has_to_wait(self, fetcher: Fetcher, own: Tracker | None) -> bool:
        """Wait one poll interval if a worker or a gate still holds deliveries; return whether it waited."""
        if own is not None:
            await own.look()
            if own.is_settled:
                return False
        elif not fetcher.can_send_shortly():
            return await fetcher.others_hold()
        await asyncio.sleep(fetcher.pause)
        return True

    async def emit_given(self, emit_one: EmitOne, batches: AsyncIterator[list[Lease]]) -> Summary:
        """Emit deliveries that this owner has already leased, and wait for all of them.

        The next batch is requested only while fewer than twice ``concurrency`` deliveries are being sent.

        Args:
            emit_one: as in ``run``.
            batches: leases of this owner.

        Raises:
            EndpointError: an endpoint cannot be opened; the leases are released.
            StoreUnavailable: the store became unreachable.
        """
        self._running.is_ending = False
        self._emit_one, self._emit_chunk = emit_one, None
        self._sender.parks_retries = False
        self._gates.keeps_place = False
        try:
            async for leases in batches:
                await self._look_at_gates()
                held = []
                for lease in leases:
                    await self._waiting(partial(self._destinations.open, lease.endpoint))
                    # Release held deliveries, so that any run may send them.
                    if self._gates.room(lease.endpoint) == 0:
                        held.append(lease)
                    else:
                        self._start(lease)
                await self._sender.hand_back(held)
                while self._in_flight.total_busy >= 2 * self.limits.concurrency:
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
        return self.summary

    async def _look_at_gates(self) -> None:
        """Refresh the gates, unless they were refreshed recently."""
        if asyncio.get_running_loop().time() >= self._look_at_gates_at:
            self._look_at_gates_at = asyncio.get_running_loop().time() + fetching.POLL_SECONDS
            await self._waiting(self._gates.look_at_sends)

    async def _waiting(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Repeat an operation while the store is unavailable."""
        return await retry_while_unavailable(operation, self._patience, outlasts=self._running.outlasts)

    async def _next_change(self) -> None:
        await self._look_at_gates()
        self._running.forget_changes()
        if self._running.failure is None and self._running:
            await self._running.wait_for_change(fetching.POLL_SECONDS)
        self._running.raise_failure()

    async def _take_due(self, fetcher: Fetcher, *, is_idle: bool) -> None:
        async for leases in fetcher.take(is_idle=is_idle):
            self._start_claimed(leases)

    @property
    def _chunk_size(self) -> int:
        return 0 if self._emit_chunk is None else self.limits.chunk_size

    def _start_claimed(self, leases: list[Lease]) -> None:
        """Start leases of one endpoint: in chunks in the bulk lane, one by one in the task lane."""
        size = self._chunk_size
        if self._emit_chunk is None or not size:
            for lease in leases:
                self._start(lease)
            return
        # A delivery that may have crashed a worker is sent alone, so that it cannot crash a whole chunk again.
        for lease in leases:
            if lease.crashes:
                self._start(lease)
        together = [lease for lease in leases if not lease.crashes]
        for start in range(0, len(together), size):
            chunk = together[start : start + size]
            for lease in chunk:
                self._in_flight.take(lease)
            self._running.start(self._emit_all(self._emit_chunk, chunk))

    def _start(self, lease: Lease) -> None:
        self._in_flight.take(lease)
        self._running.start(self._emit(lease))

    async def _emit_all(self, emit_chunk: EmitChunk, leases: list[Lease]) -> None:
        await emit_chunk(leases)
        for lease in leases:
            if self._in_flight.get(lease.key) is not None:
                raise RuntimeError(f"emit_chunk returned without attempting {lease.event.id}")

    async def _emit(self, lease: Lease) -> None:
        with contextlib.suppress(LeaseLost, TimeIsUp, Held):
            await self._emit_one(lease)
        if (left := self._in_flight.get(lease.key)) is None:
            return
        if left.attempts == lease.attempts:
            raise RuntimeError(f"emit_one returned without attempting {lease.event.id}")
        # `emit_one` did not wait for the retry: park the delivery, so that any worker can retry it when it is due.
        self.summary.parked += 1
        await self._sender.hand_back([left])

    async def not_to_be_opened(self, names: Iterable[str]) -> dict[str, str]:
        """Return the endpoints that cannot be opened, with the reasons."""
        return {
            name: self.summary.unknown_endpoints[name]
            for name in names
            if not await self._destinations.is_open(name)
        }
