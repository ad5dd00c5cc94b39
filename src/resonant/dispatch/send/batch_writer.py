"""Group commit: writes that many coroutines request at the same time share one transaction.

While one transaction is being written, further writes queue up and form the next one. Outcomes for which no send waits are
gathered for a moment, since a transaction costs as much CPU as several sends.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from sqlalchemy import Connection

from resonant.delivery.outcome import Outcome
from resonant.dispatch.waiting import wait_at_most
from resonant.errors import StoreLocked, StoreUnavailable
from resonant.events import Clock, Lease, LeaseKey
from resonant.store.engine.availability import is_lock, retry_while_unavailable
from resonant.store.queue.expiry import expire
from resonant.store.queue.leases import begin, release
from resonant.store.queue.locked_rows import lock, locked_by_others
from resonant.store.queue.outcomes import record
from resonant.store.worker import WorkerStore

logger = logging.getLogger(__name__)

# For how long, and how many, outcomes are gathered.
_GATHER_SECONDS, _MOST_GATHERED = 0.05, 100
_LOCKED_PAUSE_SECONDS = 0.5


@dataclass(eq=False, slots=True)
class _Request:
    """Requested writes, the future of the leases that were still held at their commit, and how long to wait for a lock."""

    begins: Sequence[Lease]
    outcomes: Sequence[Outcome]
    releases: Sequence[Lease]
    expired: Sequence[Lease]
    held: asyncio.Future[set[LeaseKey]]
    patient_until: float | None = None

    def leases(self) -> Iterable[Lease]:
        return chain(self.begins, (outcome.lease for outcome in self.outcomes), self.releases, self.expired)


class BatchWriter:
    """Writes begins, outcomes, releases and expiries, and acknowledges each after its commit.

    Every method returns a future that completes at the commit. It raises ``StoreUnavailable`` if the store did not recover in
    time. Requests wait alone for a delivery that another transaction has locked, such as an operator's in psql.

    Args:
        store: an open store, bound to the running event loop.
        patience: how long to wait for an unreachable store, in seconds; shorter than the lease.
        outlasts: returns whether to wait longer, given the error, until ``close``; by default only for a lock.
    """

    def __init__(
        self,
        store: WorkerStore,
        *,
        patience: float = 20.0,
        outlasts: Callable[[StoreUnavailable], bool] = is_lock,
    ) -> None:
        self._store = store
        self._patience = patience
        self._outlasts = outlasts
        self._requests: list[_Request] = []
        self._writer: asyncio.Task[None] | None = None
        self._locked: list[_Request] = []
        self._locked_writer: asyncio.Task[None] | None = None
        self._is_urgent = asyncio.Event()
        self._is_closing = False

    def begin(self, leases: Sequence[Lease]) -> asyncio.Future[set[LeaseKey]]:
        """Record that sends are about to start; the result is the leases that are still held. Send nothing for the others."""
        return self._request(begins=leases)

    def record(self, outcome: Outcome, *, is_urgent: bool = True) -> asyncio.Future[set[LeaseKey]]:
        """Record an attempt and its decision; the result is empty if the lease was lost and only history was added.

        Unless it is urgent, it may wait for others.
        """
        return self._request(outcomes=[outcome], is_urgent=is_urgent)

    def release(self, leases: Sequence[Lease]) -> asyncio.Future[set[LeaseKey]]:
        """Release deliveries without charging an attempt."""
        return self._request(releases=leases)

    def expire(self, leases: Sequence[Lease]) -> asyncio.Future[set[LeaseKey]]:
        """Give up the deliveries of expired events, without an attempt; the result is the leases that were still held."""
        return self._request(expired=leases)

    def hurry(self) -> None:
        """Write all requested outcomes now."""
        self._is_urgent.set()

    async def close(self) -> None:
        """Wait until all requested writes are done, even if their callers no longer wait."""
        self._is_closing = True
        self.hurry()
        # Both, since each may leave requests to the other. Unlike await, asyncio.wait does not cancel them.
        while (
            self._requests or self._locked or not (_is_done(self._writer) and _is_done(self._locked_writer))
        ):
            await asyncio.wait([self._ensure_writer(), self._ensure_locked_writer()])

    def _request(
        self,
        *,
        begins: Sequence[Lease] = (),
        outcomes: Sequence[Outcome] = (),
        releases: Sequence[Lease] = (),
        expired: Sequence[Lease] = (),
        is_urgent: bool = True,
    ) -> asyncio.Future[set[LeaseKey]]:
        held: asyncio.Future[set[LeaseKey]] = asyncio.get_running_loop().create_future()
        self._requests.append(_Request(begins, outcomes, releases, expired, held))
        if is_urgent or self._is_closing or len(self._requests) >= _MOST_GATHERED:
            self.hurry()
        self._ensure_writer()
        return held

    def _ensure_writer(self) -> asyncio.Task[None]:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return self._writer

    async def _write_all(self) -> None:
        while self._requests:
            await asyncio.sleep(0)  # lets the callers of the last commit request their next writes
            await wait_at_most(_GATHER_SECONDS, self._is_urgent)
            self._is_urgent.clear()
            requests, self._requests = self._requests, []
            await self._write(requests)

    async def _write_locked(self) -> None:
        while self._locked:
            await asyncio.sleep(_LOCKED_PAUSE_SECONDS)
            requests, self._locked = self._locked, []
            await self._write(requests)

    async def _write(self, requests: list[_Request]) -> None:
        """Write the requests, and acknowledge them, but set those aside for whose deliveries they would have to wait."""
        # Skip cancelled begins, since nothing will be sent. Everything else is always written.
        requests = [each for each in requests if not (each.begins and each.held.done())]
        if not requests:
            return
        is_synced = any(each.outcomes or each.expired for each in requests)
        write = self._store.write if is_synced else self._store.write_unsynced
        try:
            held, locked = await retry_while_unavailable(
                lambda: write(_write, requests, clock=self._store.clock),
                self._patience,
                outlasts=lambda error: not self._is_closing and self._outlasts(error),
            )
        except BaseException as error:
            for request in requests:
                _fail(request, error)
            if not isinstance(error, Exception):
                self._requests += requests  # for `close`; the begins are left out then
                raise
            return
        for request in requests:
            if request in locked:
                self._set_aside(request)
            elif not request.held.done():
                request.held.set_result(held.intersection(lease.key for lease in request.leases()))

    def _set_aside(self, request: _Request) -> None:
        now = asyncio.get_running_loop().time()
        if request.patient_until is not None and now > request.patient_until:
            message = "another transaction holds a lock on a delivery"
            if self._is_closing:
                _fail(request, StoreLocked(f"{self._store}: {message}"))
                return
            logger.warning("%s: %s: recording its outcome waits for it", self._store, message)
            request.patient_until = None
        if request.patient_until is None:
            request.patient_until = now + self._patience
        self._locked.append(request)
        self._ensure_locked_writer()

    def _ensure_locked_writer(self) -> asyncio.Task[None]:
        if self._locked_writer is None or self._locked_writer.done():
            self._locked_writer = asyncio.create_task(self._write_locked())
        return self._locked_writer


def _is_done(writer: asyncio.Task[None] | None) -> bool:
    return writer is None or writer.done()


def _fail(request: _Request, error: BaseException) -> None:
    if not request.held.done():
        request.held.set_exception(error)


def _write(
    connection: Connection, requests: list[_Request], *, clock: Clock
) -> tuple[set[LeaseKey], set[_Request]]:
    """Write requests, except those with a delivery that another transaction has locked.

    Returns:
        The leases that are begun, and those whose outcome or expiry was recorded; and the requests that were not written.
    """
    now = clock()  # within the transaction, which may be the first with another server
    # One lock for all, in order, so that this cannot deadlock with a renewal of the same leases.
    ids = {lease.delivery_id for each in requests for lease in each.leases()}
    rows = lock(connection, ids, skip_locked=True)
    locked = locked_by_others(connection, ids - rows.keys())
    left_out = {each for each in requests if any(lease.delivery_id in locked for lease in each.leases())}
    written = [each for each in requests if each not in left_out]
    outcomes = [outcome for each in written for outcome in each.outcomes]
    releases = [lease for each in written for lease in each.releases]
    expired = [lease for each in written for lease in each.expired]
    held = begin(connection, [lease for each in written for lease in each.begins], now=now, rows=rows)
    if outcomes:
        held = held | record(connection, outcomes, now=now, rows=rows)
    if releases:
        release(connection, releases, now=now)
    if expired:
        held = held | expire(connection, expired, now=now)
    return held, left_out
