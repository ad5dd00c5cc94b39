"""``Store``, the public half of the store: each method runs in its own transaction. ``worker`` has the other half."""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from resonant.events import Clock, DeadLetter, Event
from resonant.store.engine.clock import StoreClock, steady_clock
from resonant.store.engine.database import Database, Transaction, open_database
from resonant.store.engine.durability import durability_problem
from resonant.store.engine.sqlite import SQLite
from resonant.store.queue.enqueue import EnqueueResult, enqueue
from resonant.store.views import reads
from resonant.store.views.selection import Selection

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_LEASE_SECONDS = 60.0


class Store:
    """An open durable store, as ``open_store`` yields it. It belongs to the event loop that opened it.

    Every method raises StoreUnavailable if the database is unreachable, locked, read-only or full.

    Attributes:
        clock: the store's clock, in seconds since the epoch: PostgreSQL's, or on SQLite the host's. All processes share it.
        steady: a monotonic clock of this process, in seconds.
        durability_problem: why a crash of the database's machine may lose stored events, on one line; None if it may not.
    """

    durability_problem: str | None = None

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock | None = None,
        process_clock: Clock = time.time,
        steady: Clock | None = None,
        lease_seconds: float = DEFAULT_LEASE_SECONDS,
    ) -> None:
        self.database = database
        self.lease_seconds = lease_seconds
        self.steady = steady or steady_clock()
        self._compared = StoreClock(process_clock, self.steady, is_unused=clock is not None)
        # On SQLite, all processes see at once when the host's clock is set.
        self.clock: Clock = clock or (time.time if isinstance(database, SQLite) else self._compared)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        clock: Clock | None = None,
        process_clock: Clock = time.time,
        steady: Clock | None = None,
        lease_seconds: float = DEFAULT_LEASE_SECONDS,
    ) -> Self:
        """Open a store, which the caller closes; see ``open_store``.

        Args:
            url: as for ``open_store``.
            clock: as for ``open_store``.
            process_clock: the clock of this process; the store's is compared with it.
            steady: measures durations; by default ``steady_clock()``.
            lease_seconds: the duration of a lease that is not renewed.
        """
        database = await open_database(url, lease_seconds=lease_seconds, host_clock=clock or time.time)
        store = cls(
            database, clock=clock, process_clock=process_clock, steady=steady, lease_seconds=lease_seconds
        )
        try:
            store.durability_problem = await store.read(durability_problem)  # also compares the clocks
        except BaseException:
            await store.close()
            raise
        return store

    def __str__(self) -> str:
        return str(self.database)

    @property
    def clock_ahead(self) -> float:
        """How far the store's clock was ahead of that of this process at the last comparison, in seconds."""
        return self._compared.ahead

    async def close(self) -> None:
        """Close every connection."""
        await self.database.close()

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Open one transaction for several calls of ``enqueue``: either all are committed, or none."""
        return self.database.transaction()

    async def write(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run one operation in a transaction that commits before this returns.

        The operation may run more than once, if the server breaks a deadlock; earlier runs are rolled back.
        """
        return await self.database.write(self._run(operation, *args, **kwargs))

    async def write_soon(
        self,
        lock_seconds: float,
        operation: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run one operation like ``write``, but wait no longer than this for a lock.

        Raises:
            StillLocked: another transaction holds the lock. It is a ``StoreUnavailable``.
        """
        return await self.database.write(self._run(operation, *args, **kwargs), lock_seconds=lock_seconds)

    async def read(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run one operation on a snapshot."""
        return await self.database.read(self._run(operation, *args, **kwargs))

    def _run(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[Connection], T]:
        def run(connection: Connection) -> T:
            self._compared.compare_if_old(connection)
            return operation(connection, *args, **kwargs)

        return run

    async def enqueue(
        self,
        events: Event | Iterable[Event],
        endpoint: str | None = None,
        *,
        policy: str | None = None,
        max_attempts: int | None = None,
        report_conflicts: bool = False,
        allow_unrouted: bool = False,
        wake: bool = True,
    ) -> EnqueueResult:
        """Store one or more events, for an endpoint or by the subscriptions; ``resonant.enqueue`` describes the options and the errors."""
        return await self.write(
            enqueue,
            events if isinstance(events, Event) else list(events),
            endpoint,
            now=self.clock(),
            policy=policy,
            max_attempts=max_attempts,
            report_conflicts=report_conflicts,
            allow_unrouted=allow_unrouted,
            wake=wake,
        )

    async def status(self, *, endpoint: str | None = None) -> reads.StoreStatus:
        """Return the balance, in one snapshot."""
        return await self.read(reads.status, now=self.clock(), endpoint=endpoint)

    async def dead_letters(
        self, selection: Selection | None = None, *, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return the selected dead letters, newest first."""
        chosen = selection or Selection()
        return await self.read(lambda connection: [*reads.each_dead_letter(connection, chosen, limit=limit)])

    async def detail(self, event_id: str, source: str | None = None) -> reads.Detail | None:
        """Return an event with its whole history; None if no such event is stored.

        Raises:
            UnknownName: several sources have an event with this id, and ``source`` is None.
        """
        return await self.read(reads.detail, event_id, source)


@asynccontextmanager
async def open_store(url: str, *, clock: Clock | None = None) -> AsyncIterator[Store]:
    """Open the store at this database URL, bring its schema up to date, and close it at the end of the block.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST/NAME``.
        clock: for tests: returns the time, in seconds since the epoch. The default is the clock of PostgreSQL's server, on which all
            processes agree, or with SQLite that of this machine.

    Raises:
        StoreError: the database cannot be used; the subclass and the message say why.
    """
    store = await Store.open(url, clock=clock)
    try:
        yield store
    finally:
        await store.close()
