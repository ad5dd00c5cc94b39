"""The database of a world: the real SQL on SQLite in memory. Each transaction is one step, and may fail."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from random import Random
from typing import Any, NamedTuple

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.pool import StaticPool

from resonant.errors import StoreLocked, StoreUnavailable
from resonant.events import Clock
from resonant.store.engine.migrate import create_schema
from resonant.store.engine.sql import HOST_CLOCK
from simulation.loop import Process, this_process

_BUSY_SECONDS = 30.0
# How long one part of a round trip takes, and how soon others learn of a commit.
_SHORTEST, _LONGEST = 0.001, 0.008
_WAKE_SECONDS = 0.002


class Trouble(NamedTuple):
    """What a transaction meets, as probabilities.

    Attributes:
        fails: it fails before its commit.
        loses: it commits, and the answer is lost.
        slow: one part of its round trip takes up to ``seconds``.
    """

    fails: float = 0.0
    loses: float = 0.0
    slow: float = 0.0
    seconds: float = 5.0


class Noted(NamedTuple):
    """What a trigger notes of each row.

    Attributes:
        name: of the facts.
        change: when: INSERT, UPDATE (OF columns) or DELETE.
        table: the table.
        values: SQL of the values.
    """

    name: str
    change: str
    table: str
    values: str


class Server:
    """The database that all processes share.

    Args:
        clock: of the server, in seconds since the epoch.
        rng: draws the durations and the failures.

    Attributes:
        is_away: whether it cannot be reached.
        locked_until: until when another transaction holds the lock, in the loop's time.
        trouble: of the present transactions.
        on_commit: called after each commit with the process that made it; returns whether there is new work.
        on_loss: called with the process whose answer is lost, after the commit.
        listeners: are set after each commit of new work.
        facts: that the triggers noted in the latest transaction, each with its name and values.
    """

    def __init__(self, clock: Clock, rng: Random) -> None:
        self.is_away = False
        self.locked_until = 0.0
        self.trouble = Trouble()
        self.on_commit: Callable[[Process], bool] = lambda _process: False
        self.on_loss: Callable[[Process], None] = lambda _process: None
        self.listeners: list[asyncio.Event] = []
        self.facts: list[tuple[str, tuple[Any, ...]]] = []
        self.rng = rng
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            connection.create_function(HOST_CLOCK, 0, clock)
            connection.create_function("note", -1, lambda name, *values: self.facts.append((name, values)))
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA case_sensitive_like=ON")

        self.connection = engine.connect()
        self.driver: sqlite3.Connection = self.connection.connection.driver_connection
        self.run(create_schema, {}, writes=True)

    def run(self, operation: Callable[[Connection], Any], info: dict[Any, Any], *, writes: bool) -> Any:
        """Run a transaction as one step; ``info`` is that of the process's connection."""
        connection = self.connection
        self.facts.clear()
        connection.info.clear()
        connection.info.update(info)
        self.driver.execute("BEGIN")
        try:
            with connection.begin():
                result = operation(connection)
                if self.driver.in_transaction:
                    self.driver.execute("COMMIT" if writes else "ROLLBACK")
        except BaseException:
            if self.driver.in_transaction:
                self.driver.execute("ROLLBACK")
            raise
        finally:
            info.update(connection.info)
        return result

    def query(self, statement: str, **values: Any) -> list[Any]:
        """Return the rows of a query, whose parameters are named ``:name``."""
        return self.run(
            lambda connection: connection.execute(text(statement), values).all(), {}, writes=False
        )

    def note(self, noted: list[Noted]) -> None:
        """Let triggers note facts of the rows that change."""
        for number, (name, change, table, values) in enumerate(noted):
            self.driver.execute(
                f"CREATE TEMP TRIGGER note_{number} AFTER {change} ON main.{table} BEGIN SELECT note('{name}', {values}); END"
            )

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
        self.connection.engine.dispose()


class SimulatedDatabase:
    """The connections of one process; a ``Database``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._process = this_process()
        self._info: dict[Any, Any] = {}

    def __str__(self) -> str:
        return "simulated:"

    async def write(
        self,
        operation: Callable[[Connection], Any],
        *,
        sync: str = "always",
        lock_seconds: float | None = None,
    ) -> Any:
        del sync, lock_seconds
        server, trouble = self._server, self._server.trouble
        await self._travel(trouble)
        await self._wait_for_lock()
        fails = server.rng.random() < trouble.fails

        def run(connection: Connection) -> Any:
            result = operation(connection)
            if fails:
                raise StoreUnavailable(f"{self}: the connection was closed")
            return result

        result = server.run(run, self._info, writes=True)
        if server.on_commit(self._process):
            for listener in server.listeners:
                listener.set()
        if server.rng.random() < trouble.loses:
            server.on_loss(self._process)
            await self._travel(trouble)
            self._info.clear()
            raise StoreUnavailable(f"{self}: the connection was closed during the commit")
        await self._travel(trouble)
        return result

    async def read(self, operation: Callable[[Connection], Any]) -> Any:
        await self._travel(self._server.trouble)
        result = self._server.run(operation, self._info, writes=False)
        await self._travel(self._server.trouble)
        return result

    async def _travel(self, trouble: Trouble) -> None:
        rng, loop = self._server.rng, asyncio.get_running_loop()
        await asyncio.sleep(rng.uniform(_SHORTEST, _LONGEST))
        if rng.random() < trouble.slow:
            until = loop.time() + rng.uniform(0.0, trouble.seconds)
            while loop.time() < until and self._server.trouble is trouble:
                await asyncio.sleep(min(until - loop.time(), 1.0))
        if self._server.is_away:
            self._info.clear()
            raise StoreUnavailable(f"{self}: it cannot be reached")

    async def _wait_for_lock(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _BUSY_SECONDS
        while (left := self._server.locked_until - loop.time()) > 0:
            if loop.time() >= until:
                raise StoreLocked(f"{self}: another process holds its lock")
            await asyncio.sleep(min(left, until - loop.time(), 1.0) + 0.001)
        if self._server.is_away:
            raise StoreUnavailable(f"{self}: it cannot be reached")

    async def commits(self) -> AsyncGenerator[frozenset[str] | None]:
        committed = asyncio.Event()
        self._server.listeners.append(committed)
        try:
            while True:
                await committed.wait()
                await asyncio.sleep(_WAKE_SECONDS)
                committed.clear()
                yield None
        finally:
            self._server.listeners.remove(committed)

    async def reclaim_space(self) -> None:
        """Do nothing: a database in memory has no file."""

    async def forget_removed(self) -> str:
        return ""

    async def close(self) -> None:
        """Do nothing: the world closes its only connection."""
