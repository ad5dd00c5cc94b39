"""Group commit: writes that many coroutines request at the same time share one transaction.

While one transaction is being written, further writes queue up and form the next one. Outcomes for which no send waits are
gathered for a moment, since a transaction costs as much CPU as several sends.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from sqlalchemy import Connection

from resonant.delivery.outcome import Outcome
from resonant.dispatch.waiting import wait_at_most
from resonant.errors import StoreUnavailable
from resonant.events import Clock, Lease, LeaseKey
from resonant.store.engine.availability import is_lock, retry_while_unavailable
from resonant.store.queue.expiry import expire
from resonant.store.queue.leases import begin, release
from resonant.store.queue.locked_rows import lock
from resonant.store.queue.outcomes import record
from resonant.store.worker import WorkerStore

# For how long, and how many, outcomes are gathered.
_GATHER_SECONDS, _MOST_GATHERED = 0.05, 100


class _Request(NamedTuple):
    """Requested writes, and the future of the leases that were still held at their commit."""

    begins: Sequence[Lease]
    outcomes: Sequence[Outcome]
    releases: Sequence[Lease]
    expired: Sequence[Lease]
    held: asyncio.Future[set[LeaseKey]]

    def leases(self) -> Iterable[Lease]:
        return chain(self.begins, (outcome.lease for outcome in self.outcomes), self.releases, self.expired)


class BatchWriter:
    """Writes begins, outcomes, releases and expiries, and acknowledges each after its commit.

    Every method returns a future that completes at the commit. It raises ``StoreUnavailable`` if the store did not recover in
    time.

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
        while self._writer is not None and (self._requests or not self._writer.done()):
            await asyncio.wait([self._ensure_writer()])  # unlike await, does not cancel the writer

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
            # Skip cancelled begins, since nothing will be sent. Everything else is always written.
            requests = [each for each in self._requests if not (each.begins and each.held.done())]
            self._requests = []
            try:
                held = await self._write(requests)
            except BaseException as error:
                for request in requests:
                    if not request.held.done():
                        request.held.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for request in requests:
                if not request.held.done():
                    request.held.set_result(held.intersection(lease.key for lease in request.leases()))

    async def _write(self, requests: list[_Request]) -> set[LeaseKey]:
        if not requests:
            return set()
        begins = [lease for each in requests for lease in each.begins]
        outcomes = [outcome for each in requests for outcome in each.outcomes]
        releases = [lease for each in requests for lease in each.releases]
        expired = [lease for each in requests for lease in each.expired]
        write = self._store.write if outcomes or expired else self._store.write_unsynced
        return await retry_while_unavailable(
            lambda: write(_write, begins, outcomes, releases, expired, clock=self._store.clock),
            self._patience,
            outlasts=lambda error: not self._is_closing and self._outlasts(error),
        )


def _write(
    connection: Connection,
    begins: list[Lease],
    outcomes: list[Outcome],
    releases: list[Lease],
    expired: list[Lease],
    *,
    clock: Clock,
) -> set[LeaseKey]:
    """Return the leases that are begun, and those whose outcome or expiry was recorded."""
    now = clock()  # within the transaction, which may be the first with another server
    # One lock for all, in order, so that this cannot deadlock with a renewal of the same leases.
    of_outcomes = [outcome.lease for outcome in outcomes]
    rows = lock(connection, [lease.delivery_id for lease in [*begins, *of_outcomes, *releases, *expired]])
    held = begin(connection, begins, now=now, rows=rows)
    if outcomes:
        held = held | record(connection, outcomes, now=now, rows=rows)
    if releases:
        release(connection, releases, now=now)
    if expired:
        held = held | expire(connection, expired, now=now)
    return held
