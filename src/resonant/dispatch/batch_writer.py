"""Group commit: writes that many coroutines request at the same time share one transaction.

There is no timer: while one transaction is being written, further writes queue up and form the next one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from resonant.store.engine.availability import is_lock, retry_while_unavailable
from resonant.store.queue.leases import begin, release
from resonant.store.queue.locked_rows import lock
from resonant.store.queue.outcomes import Outcome, record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from resonant.errors import StoreUnavailable
    from resonant.events import Lease, LeaseKey
    from resonant.store.worker import WorkerStore

T = TypeVar("T")


class BatchWriter:
    """Writes begins, outcomes and releases, and acknowledges each after its commit.

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
        self._begins: list[tuple[Sequence[Lease], asyncio.Future[set[LeaseKey]]]] = []
        self._outcomes: list[tuple[Outcome, asyncio.Future[bool]]] = []
        self._releases: list[tuple[Lease, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._is_closing = False

    async def begin(self, lease: Lease) -> bool:
        """Record that a send is about to start; return False if the lease was lost and nothing may be sent.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        return bool(await self.begin_all([lease]))

    async def begin_all(self, leases: Sequence[Lease]) -> set[LeaseKey]:
        """Record that sends are about to start; return the leases that are still held.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        future: asyncio.Future[set[LeaseKey]] = asyncio.get_running_loop().create_future()
        self._begins.append((leases, future))
        self._ensure_writer()
        return await future

    def record(self, outcome: Outcome) -> asyncio.Future[bool]:
        """Queue an attempt and its decision for the next commit, and return at once.

        Returns:
            A future that completes at the commit. Its result is False if the lease was lost and only history was added. It
            raises ``StoreUnavailable`` if the store did not recover in time.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._outcomes.append((outcome, future))
        self._ensure_writer()
        return future

    async def release(self, lease: Lease) -> None:
        """Release a delivery without charging an attempt.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._releases.append((lease, future))
        self._ensure_writer()
        await future

    async def close(self) -> None:
        """Wait until all requested writes are done, even if their callers no longer wait."""
        self._is_closing = True
        while self._writer is not None and (self._has_work or not self._writer.done()):
            await asyncio.wait([self._ensure_writer()])  # unlike await, does not cancel the writer

    @property
    def _has_work(self) -> bool:
        return bool(self._begins or self._outcomes or self._releases)

    def _ensure_writer(self) -> asyncio.Task[None]:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return self._writer

    async def _write_all(self) -> None:
        while self._has_work:
            await asyncio.sleep(0)  # lets the callers of the last commit request their next writes
            # Skip cancelled begins, since nothing will be sent. Outcomes are always written.
            begins = [(leases, future) for leases, future in self._begins if not future.done()]
            outcomes, releases = self._outcomes, self._releases
            self._begins, self._outcomes, self._releases = [], [], []
            leases = [lease for leases, _ in begins for lease in leases]
            try:
                begun, recorded = await self._write(
                    leases, [outcome for outcome, _ in outcomes], [lease for lease, _ in releases]
                )
            except BaseException as error:
                waiting: list[asyncio.Future[Any]] = [future for _, future in begins]
                waiting += [future for _, future in outcomes]
                waiting += [future for _, future in releases]
                for each in waiting:
                    if not each.done():
                        each.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for of_one, beginning in begins:
                _acknowledge(beginning, begun.intersection(lease.key for lease in of_one))
            for outcome, recording in outcomes:
                _acknowledge(recording, outcome.lease.key in recorded)
            for _, releasing in releases:
                _acknowledge(releasing, None)

    async def _write(
        self, leases: list[Lease], outcomes: list[Outcome], releases: list[Lease]
    ) -> tuple[set[LeaseKey], set[LeaseKey]]:
        if not leases and not outcomes and not releases:
            return set(), set()
        write = self._store.write if outcomes else self._store.write_unsynced
        return await retry_while_unavailable(
            lambda: write(_write, leases, outcomes, releases, now=self._store.clock()),
            self._patience,
            outlasts=lambda error: not self._is_closing and self._outlasts(error),
        )


def _acknowledge(waiting: asyncio.Future[T], result: T) -> None:
    if not waiting.done():
        waiting.set_result(result)


def _write(
    connection: Connection,
    leases: list[Lease],
    outcomes: list[Outcome],
    releases: list[Lease],
    *,
    now: float,
) -> tuple[set[LeaseKey], set[LeaseKey]]:
    if bool(leases) + bool(outcomes) + bool(releases) > 1:
        # Lock in order, so that this cannot deadlock with a renewal of the same leases.
        of_outcomes = [outcome.lease for outcome in outcomes]
        lock(connection, [lease.delivery_id for lease in [*leases, *of_outcomes, *releases]])
    begun = begin(connection, leases, now=now) if leases else set()
    recorded = record(connection, outcomes, now=now) if outcomes else set()
    if releases:
        release(connection, releases, now=now)
    return begun, recorded
