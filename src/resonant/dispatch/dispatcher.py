"""The dispatcher: take what is due from the store and make attempts until nothing is due, or a bound is reached.

The way of one delivery::

    Dispatcher.run      claims it, and hands it to `emit_one` (in flows: a Prefect task run)
    Dispatcher.attempt  begins in the store, lets the attempt runner send and decide, records both, reports
    emit_one          returns (delivered, parked), waits and calls attempt again (retry), or ends (given up)

In the bulk lane, `emit_chunk` is handed many that were never tried, to one endpoint::

    Dispatcher.attempt_all  makes the first attempt of each, as above, in large commits
    emit_one              is handed those that failed; its first call of attempt reports what was attempted already

No Prefect here: the clock, the random generator, the endpoints and `emit_one` are arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.dispatch import fetcher as fetching
from resonant.dispatch.batch_writer import BatchWriter
from resonant.dispatch.bulk import PrefetchWindow, send_ahead
from resonant.dispatch.fetcher import Fetcher
from resonant.dispatch.heartbeat import LeaseHeartbeat
from resonant.dispatch.in_flight import InFlight
from resonant.dispatch.limiter import ConcurrencyLimiter
from resonant.dispatch.secret_rotation import Signing
from resonant.errors import EndpointError, StoreError
from resonant.store import endpoints
from resonant.store.availability import retry_while_unavailable
from resonant.store.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence

    from resonant.delivery.attempt import AttemptRunner, Destination, Report
    from resonant.dispatch.tracking import Tracker
    from resonant.events import Lease, LeaseKey
    from resonant.store import Store

logger = logging.getLogger(__name__)

# A bounded run parks its retries this long before its end, in seconds: one that waited beyond it would put off the next run.
LAST_WAIT_SECONDS = 30.0
# When an endpoint that could not be opened is tried again, in a run that goes on that long.
REOPEN_SECONDS = 30.0


EmitOne = Callable[["Lease"], Awaitable[None]]
EmitChunk = Callable[["list[Lease]"], Awaitable[None]]


class LeaseLost(Exception):
    """The lease went to another worker: nothing may be sent, and nothing but history was written."""


class TimeIsUp(Exception):
    """The run ends, and this delivery, which waited for its turn to be sent, went back for the next one."""


@dataclass(slots=True)
class Summary:
    """What a run did, counted in deliveries.

    Attributes:
        delivered: answered with success.
        retried: waited in this run for at least one retry.
        parked: left in the store until they are due again.
        dead_letters: given up, by reason.
        lost: taken over by another worker.
        attempts: counted in attempts, unlike all others.
        unknown_endpoints: endpoints that could not be opened, and why; their deliveries wait.
    """

    delivered: int = 0
    retried: int = 0
    parked: int = 0
    lost: int = 0
    attempts: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    unknown_endpoints: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.delivered} delivered, {self.retried} retried, {self.parked} parked, "
        text += f"{self.dead_letters.total()} dead-lettered"
        if self.dead_letters:
            text += f" ({', '.join(f'{n} {reason}' for reason, n in sorted(self.dead_letters.items()))})"
        return text + (f", {self.lost} taken over by another worker" if self.lost else "")

    def as_dict(self) -> dict[str, object]:
        """Return the counts, with the keys of the JSON output."""
        return {
            "delivered": self.delivered,
            "retried": self.retried,
            "parked": self.parked,
            "dead_letter": self.dead_letters.total(),
            "by_reason": dict(sorted(self.dead_letters.items())),
            "lost": self.lost,
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one run.

    Attributes:
        concurrency: sends at the same time.
        endpoint_concurrency: sends at the same time to one endpoint; half of ``concurrency`` at most (see ``ConcurrencyLimiter``).
        max_waiting: retries that may wait in this process; beyond that they are parked.
        run_for: seconds during which the run goes on looking for what becomes due; 0 ends when nothing is due.
        chunk_size: deliveries that are first tried together, in the bulk lane; 0 is the task lane.
    """

    concurrency: int = 100
    endpoint_concurrency: int = 50
    max_waiting: int = 1_000
    run_for: float = 0.0
    chunk_size: int = 0


def _why_not_open(name: str, error: Exception) -> str:
    # Only our own errors are known to contain no secret.
    if isinstance(error, EndpointError):
        return str(error)
    return f"endpoint {name!r} cannot be opened: {type(error).__name__}"


class Dispatcher:
    """One run over a store. Use it as an async context manager: on exit every lease is handed back.

    Args:
        store: open, and bound to the running loop.
        attempt_runner: makes the attempts.
        open_destination: opens an endpoint by name. An error holds back only this endpoint's deliveries.
        owner: who holds the leases, e.g. the flow run's id.
        limits: the bounds of the run.
    """

    def __init__(
        self,
        store: Store,
        attempt_runner: AttemptRunner,
        open_destination: Callable[[str], Awaitable[Destination]],
        *,
        owner: str,
        limits: Limits = Limits(),
    ) -> None:
        self.store = store
        self.owner = owner
        self.limits = limits
        self.summary = Summary()
        self._attempt_runner = attempt_runner
        self._open_destination = open_destination
        self._limiter = ConcurrencyLimiter(limits.concurrency, limits.endpoint_concurrency)
        self._patience = store.lease_seconds / 3
        self._commits = BatchWriter(store, patience=self._patience)
        self._destinations: dict[str, Destination] = {}
        self._in_flight = InFlight()
        self._windows: dict[str, PrefetchWindow] = {}
        self._heartbeat = LeaseHeartbeat(store, owner, self._in_flight, self._fail)
        self._signing = Signing(store, owner)
        self._end: float | None = None
        self._reopen_at: dict[str, float] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._is_ending = False
        self._emit_one: EmitOne
        self._emit_chunk: EmitChunk | None = None
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._heartbeat.start()
        self._signing.start()
        return self

    async def __aexit__(self, _kind: object, ended_by: object, _trace: object) -> None:
        try:
            await self._heartbeat.stop()
            await self._signing.stop()
            await self._commits.close()
            # Also without a lease that we know of: a claim may have been cancelled while it was committed.
            await self.store.release_all(self.owner)
            await self._signing.leave()
        except StoreError as error:
            if not isinstance(ended_by, StoreError):  # which says the same
                logger.warning("leases were not handed back, and will run out by themselves: %s", error)
        finally:
            closing = [destination.close() for destination in self._destinations.values()]
            await asyncio.gather(*closing, return_exceptions=True)

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the run, if any."""
        return self._failure

    async def attempt(self, key: LeaseKey, *, task_run_id: str | None = None) -> Report:
        """Make one attempt, and record it with the decision taken on it.

        Of a delivery whose first attempt was made in a chunk, the first call returns what came of that.

        Raises:
            LeaseLost: another worker has the delivery, or this one has it by another lease.
            TimeIsUp: the run's time was up before the send; the delivery went back, with no attempt charged.
            StoreUnavailable: the outcome could not be written; the delivery will be tried again by somebody.
        """
        if (made := self._in_flight.take_report(key)) is not None:
            self._changed.set()
            return made
        if (lease := self._in_flight.get(key)) is None:
            raise LeaseLost
        try:
            return await self._attempt(lease, task_run_id)
        except (LeaseLost, TimeIsUp):
            raise
        except Exception as error:
            self._fail(error)  # whatever `emit_one` makes of it
            raise

    async def _attempt(self, lease: Lease, task_run_id: str | None) -> Report:
        self._in_flight.resume(lease)
        async with self._limiter.hold(lease.endpoint):
            if self._is_over():
                await self._hand_back([lease])
                raise TimeIsUp
            if not await self._commits.begin(lease):
                raise self._lost(lease)
            report = await self._attempt_runner.attempt(
                lease,
                self._destinations[lease.endpoint],
                may_wait=self._may_wait,
                task_run_id=task_run_id,
            )
        # Without the slot, so that the next sends begin in the very transaction that records this one.
        if not await self._record(report):
            raise self._lost(lease)
        self._settle(report)
        return report

    async def attempt_all(
        self, endpoint: str, keys: Sequence[LeaseKey], *, task_run_id: str | None = None
    ) -> Counter[str]:
        """Make the first attempt of deliveries to one endpoint; those that fail are handed to `emit_one`.

        Returns:
            How many were ``delivered``, ``failed``, ``lost`` to another worker, or went back untried since the run's
            time is up (``left``).

        Raises:
            StoreUnavailable: outcomes could not be written; these deliveries will be tried again by somebody.
        """
        leases = [lease for key in keys if (lease := self._in_flight.get(key)) is not None]
        recording: list[asyncio.Future[bool]] = []
        done = Counter[str]()
        left: list[Lease] = []

        async def send(lease: Lease) -> None:
            if self._is_over():
                left.append(lease)
                return
            report = await self._attempt_runner.attempt(
                lease, self._destinations[endpoint], may_wait=self._may_wait, task_run_id=task_run_id
            )
            recorded = self._record(report)
            recorded.add_done_callback(partial(self._settle_first, report, done))
            recording.append(recorded)

        def count_lost(lease: Lease) -> None:
            self._count_lost(lease)
            done["lost"] += 1

        try:
            left += await send_ahead(
                leases,
                begin=self._commits.begin_all,
                place=partial(self._limiter.hold, endpoint),
                send=send,
                on_lost=count_lost,
                window=self._windows[endpoint],
                good_for=self.store.lease_seconds / 2,
                is_over=self._is_over,
            )
            await asyncio.gather(*recording)
            await self._hand_back(left)
        except Exception as error:
            self._fail(error)  # whatever `emit_chunk` makes of it
            raise
        done["left"] = len(left)
        return done

    async def _hand_back(self, leases: list[Lease]) -> None:
        for lease in leases:
            self._in_flight.drop(lease)
        if leases:
            await retry_while_unavailable(lambda: self.store.release(leases), self._patience)

    def _record(self, report: Report) -> asyncio.Future[bool]:
        lease, decision = report.lease, report.decision
        if isinstance(decision, Retry):
            # Counted before it is written: nobody else shall be promised this place meanwhile.
            self._in_flight.wait(lease)
            self._changed.set()
        gone = report.verdict is not None and report.verdict.gone
        return self._commits.record(Outcome(lease, report.attempt, decision, gone=gone))

    def _settle_first(self, report: Report, done: Counter[str], recorded: asyncio.Future[bool]) -> None:
        if recorded.cancelled() or recorded.exception() is not None:
            return
        if not recorded.result():
            self._count_lost(report.lease)
            done["lost"] += 1
            return
        self._settle(report)
        done["delivered" if report.decision is None else "failed"] += 1
        if report.decision is not None and not self._is_ending:
            self._in_flight.keep_report(report)
            self._spawn(self._emit(report.lease))

    def _is_over(self) -> bool:
        return self._failure is not None or (self._end is not None and time.monotonic() >= self._end)

    def _may_wait(self) -> bool:
        """Tell whether a retry may be waited for here: there is room, and the run goes on for long enough."""
        ends_soon = self._end is not None and time.monotonic() + LAST_WAIT_SECONDS > self._end
        return self._in_flight.waiting < self.limits.max_waiting and not ends_soon

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

        With ``own``, the run's time is up when those deliveries are settled, whichever worker sends them.

        Args:
            emit_one: makes the attempts of one delivery by ``attempt``, and waits between them. What it raises
                ends the run; so does its ending without an attempt.
            emit_chunk: makes the first attempts of many by ``attempt_all``, if the limits give a ``chunk_size``; what it
                raises ends the run.
            endpoint: only this endpoint; None for all.
            take_over: take over expired leases too, and wait for live ones to end (with ``own``, only for its own).
            own: tracks the deliveries to wait for, and their outcomes.
            on_waiting: called once, with the time until which other workers hold the remaining deliveries.

        Raises:
            EndpointError: the named endpoint cannot be opened.
            StoreUnavailable: the store went away.
        """
        if endpoint is not None:
            await retry_while_unavailable(partial(self._open, endpoint), self._patience)
        self._end = time.monotonic() + self.limits.run_for if self.limits.run_for > 0 else None
        self._is_ending = False
        self._emit_one, self._emit_chunk = emit_one, emit_chunk
        fetcher = Fetcher(
            self.store,
            owner=self.owner,
            limiter=self._limiter,
            in_flight=self._in_flight,
            endpoint=endpoint,
            take_over=take_over,
            chunk_size=self._chunk_size,
            is_open=self._is_open,
            is_over=self._is_over,
            renew=self._heartbeat.catch_up,
            on_waiting=on_waiting,
        )
        try:
            while True:
                self._changed.clear()
                if self._failure is not None:
                    raise self._failure
                if own is not None:
                    await retry_while_unavailable(own.look_if_due, self._patience)
                if own is not None and self._end is None and own.is_settled:
                    self._end = time.monotonic()  # the next run sends what else this run has claimed
                time_is_up = self._is_over()
                if not time_is_up:
                    await retry_while_unavailable(lambda: self._take_due(fetcher), self._patience)
                goes_on = self._end is not None and not time_is_up
                if self._running or goes_on or self._failure is not None:
                    await self._wait_for_change()
                elif not time_is_up and await retry_while_unavailable(
                    partial(self._has_to_wait, fetcher, own), self._patience
                ):
                    continue
                elif self._failure is None:
                    return self.summary
        finally:
            await self._cancel_running()
            await fetcher.stop()

    async def _has_to_wait(self, fetcher: Fetcher, own: Tracker | None) -> bool:
        """Return whether to wait for deliveries that others hold; if so, wait for one poll interval first."""
        if own is None:
            return await fetcher.others_hold()
        await own.look()
        if own.is_settled:
            return False
        await asyncio.sleep(fetching.POLL_SECONDS)
        return True

    async def emit_given(self, emit_one: EmitOne, batches: AsyncIterator[list[Lease]]) -> Summary:
        """Emit what an iterator hands over, already leased by this owner, and wait for all of it.

        It is asked for the next batch only while the sends keep up.

        Args:
            emit_one: as in ``run``.
            batches: leases of this emission's owner.

        Raises:
            EndpointError: an endpoint cannot be opened; what is leased is handed back.
            StoreUnavailable: the store went away.
        """
        self._is_ending = False
        self._emit_one, self._emit_chunk = emit_one, None
        try:
            async for leases in batches:
                for lease in leases:
                    await retry_while_unavailable(partial(self._open, lease.endpoint), self._patience)
                    self._start(lease)
                while self._in_flight.total_busy >= 2 * self.limits.concurrency:
                    await self._next_change()
            while self._running:
                await self._next_change()
            if self._failure is not None:
                raise self._failure
            return self.summary
        finally:
            await self._cancel_running()

    async def _next_change(self) -> None:
        self._changed.clear()
        if self._failure is None and self._running:
            await self._wait_for_change()
        if self._failure is not None:
            raise self._failure

    async def _cancel_running(self) -> None:
        self._is_ending = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _take_due(self, fetcher: Fetcher) -> None:
        async for leases in fetcher.take(is_idle=not self._running):
            self._start_claimed(leases)

    @property
    def _chunk_size(self) -> int:
        return 0 if self._emit_chunk is None else self.limits.chunk_size

    def _start_claimed(self, leases: list[Lease]) -> None:
        """Start those of one endpoint: never tried ones together in the bulk lane, all others one by one."""
        size = self._chunk_size
        if self._emit_chunk is None or not size:
            for lease in leases:
                self._start(lease)
            return
        # A lost lease is an attempt too: what may have crashed a worker shall not take a whole chunk with it again.
        for lease in leases:
            if lease.attempts:
                self._start(lease)
        never_tried = [lease for lease in leases if not lease.attempts]
        for start in range(0, len(never_tried), size):
            chunk = never_tried[start : start + size]
            for lease in chunk:
                self._in_flight.take(lease)
            self._spawn(self._emit_all(self._emit_chunk, chunk))

    def _start(self, lease: Lease) -> None:
        self._in_flight.take(lease)
        self._spawn(self._emit(lease))

    def _spawn(self, emitting: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(emitting)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def _emit_all(self, emit_chunk: EmitChunk, leases: list[Lease]) -> None:
        await emit_chunk(leases)
        for lease in leases:
            left = self._in_flight.get(lease.key)
            if left is not None and left.attempts == lease.attempts:
                raise RuntimeError(f"the emission of a chunk ended without an attempt of {lease.event.id}")

    async def _emit(self, lease: Lease) -> None:
        with contextlib.suppress(LeaseLost, TimeIsUp):
            await self._emit_one(lease)
        self._in_flight.take_report(lease.key)
        if (left := self._in_flight.get(lease.key)) is None:
            return
        if left.attempts == lease.attempts:
            raise RuntimeError(f"the emission of {lease.event.id} ended without an attempt")
        # It ended where it should have waited: whoever looks when the retry is due goes on.
        self.summary.parked += 1
        await self._hand_back([left])

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._changed.set()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._changed.set()

    async def not_to_be_opened(self, names: Iterable[str]) -> dict[str, str]:
        """Return those of these endpoints that cannot be opened, each with the reason."""
        return {name: self.summary.unknown_endpoints[name] for name in names if not await self._is_open(name)}

    async def _open(self, name: str) -> None:
        if not await self._is_open(name):
            raise EndpointError(self.summary.unknown_endpoints[name])

    async def _is_open(self, name: str) -> bool:
        if name in self._destinations:
            return True
        if time.monotonic() < self._reopen_at.get(name, 0.0):
            return False
        await self._signing.announce(name)
        try:
            destination = await self._open_destination(name)
        except Exception as error:  # noqa: BLE001 - a problem with one endpoint must not stop the others
            reason = self.summary.unknown_endpoints[name] = _why_not_open(name, error)
            self._reopen_at[name] = time.monotonic() + REOPEN_SECONDS
            await self._signing.withdraw(name)
            await self.store.write(endpoints.note_problem, name, reason, now=self.store.clock())
            return False
        self._destinations[name] = destination
        self._limiter.limit(name, destination.concurrency)
        self._windows[name] = PrefetchWindow(self._limiter.limit_of(name))
        self._signing.follow(name, destination.rotation)
        self.summary.unknown_endpoints.pop(name, None)
        await self.store.write(endpoints.clear_problem, name)
        return True

    def _settle(self, report: Report) -> None:
        lease, decision = report.lease, report.decision
        self.summary.attempts += 1
        match decision:
            case Retry(delay=delay):
                if self._in_flight.count_attempt(lease, delay):
                    self.summary.retried += 1
                return
            case None:
                self.summary.delivered += 1
            case Park():
                self.summary.parked += 1
            case GiveUp(reason=reason):
                self.summary.dead_letters[reason] += 1
        self._in_flight.drop(lease)

    def _lost(self, lease: Lease) -> LeaseLost:
        self._count_lost(lease)
        return LeaseLost()

    def _count_lost(self, lease: Lease) -> None:
        self._in_flight.drop(lease)
        self.summary.lost += 1

    async def _wait_for_change(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(fetching.POLL_SECONDS):
                await self._changed.wait()
