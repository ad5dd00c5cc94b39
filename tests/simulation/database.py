"""The database of a world: the real SQL. Each transaction is one step, and may fail."""

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from functools import cached_property
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
# The longest that one part of a round trip takes, near the database and far from it, and how soon others learn of a commit.
_LONGEST = (0.008, 0.1)
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


class Server(ABC):
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
        on_slow: called with a process that waits for the database for so many seconds.
        listeners: are set after each commit of new work.
        longest: the longest that one part of a round trip takes.
        facts: that the triggers noted in the latest transaction, each with its name and values.
    """

    def __init__(self, clock: Clock, rng: Random) -> None:
        self.is_away = False
        self.locked_until = 0.0
        self.trouble = Trouble()
        self.on_commit: Callable[[Process], bool] = lambda _process: False
        self.on_loss: Callable[[Process], None] = lambda _process: None
        self.on_slow: Callable[[Process, float], None] = lambda _process, _seconds: None
        self.listeners: list[asyncio.Event] = []
        self.facts: list[tuple[str, tuple[Any, ...]]] = []
        self.clock, self.rng, self.longest = clock, rng, rng.choice(_LONGEST)

    @abstractmethod
    def connect(self) -> Any:
        """Return a new connection."""

    @abstractmethod
    def disconnect(self, connected: Any) -> None:
        """Break a connection; the next transaction on it connects again."""

    @abstractmethod
    def run(self, operation: Callable[[Connection], Any], connected: Any, *, writes: bool) -> Any:
        """Run a transaction on a connection, as one step."""

    @abstractmethod
    def note(self, noted: list[Noted]) -> None:
        """Let triggers note facts of the rows that change."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""

    def query(self, statement: str, **values: Any) -> list[Any]:
        """Return the rows of a query, whose parameters are named ``:name``."""
        return self.run(
            lambda connection: connection.execute(text(statement), values).all(), self.own, writes=False
        )

    @cached_property
    def own(self) -> Any:
        """The connection of the world itself."""
        return self.connect()


class SQLiteServer(Server):
    """SQLite in memory; a connection is only what is remembered of it."""

    def __init__(self, clock: Clock, rng: Random) -> None:
        super().__init__(clock, rng)
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            connection.create_function(HOST_CLOCK, 0, clock)
            connection.create_function("note", -1, lambda name, *values: self.facts.append((name, values)))
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA case_sensitive_like=ON")

        self._connection = engine.connect()
        self._driver: sqlite3.Connection = self._connection.connection.driver_connection
        self.run(create_schema, self.own, writes=True)

    def connect(self) -> dict[Any, Any]:
        return {}

    def disconnect(self, connected: dict[Any, Any]) -> None:
        connected.clear()

    def run(self, operation: Callable[[Connection], Any], connected: dict[Any, Any], *, writes: bool) -> Any:
        connection = self._connection
        self.facts.clear()
        connection.info.clear()
        connection.info.update(connected)
        self._driver.execute("BEGIN")
        try:
            with connection.begin():
                result = operation(connection)
                if self._driver.in_transaction:
                    self._driver.execute("COMMIT" if writes else "ROLLBACK")
        except BaseException:
            if self._driver.in_transaction:
                self._driver.execute("ROLLBACK")
            raise
        finally:
            connected.update(connection.info)
        return result

    def note(self, noted: list[Noted]) -> None:
        for number, (name, change, table, values) in enumerate(noted):
            self._driver.execute(
                f"CREATE TEMP TRIGGER note_{number} AFTER {change} ON main.{table} BEGIN SELECT note('{name}', {values}); END"
            )

    def close(self) -> None:
        self._connection.close()
        self._connection.engine.dispose()


# Opens a server, given its clock and a generator.
OpenServer = Callable[[Clock, Random], Server]


class SimulatedDatabase:
    """The connections of one process; a ``Database``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._process = this_process()
        self._connected = server.connect()

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
        server = self._server
        await self._travel(server.trouble)
        await self._wait_for_lock()
        trouble = server.trouble
        fails = server.rng.random() < trouble.fails

        def run(connection: Connection) -> Any:
            result = operation(connection)
            if fails:
                raise StoreUnavailable(f"{self}: the connection was closed")
            return result

        result = server.run(run, self._connected, writes=True)
        if server.on_commit(self._process):
            for listener in server.listeners:
                listener.set()
        if server.rng.random() < trouble.loses:
            server.on_loss(self._process)
            await self._travel(trouble)
            server.disconnect(self._connected)
            raise StoreUnavailable(f"{self}: the connection was closed during the commit")
        await self._travel(trouble)
        return result

    async def read(self, operation: Callable[[Connection], Any]) -> Any:
        await self._travel(self._server.trouble)
        result = self._server.run(operation, self._connected, writes=False)
        await self._travel(self._server.trouble)
        return result

    async def _travel(self, trouble: Trouble) -> None:
        rng, loop = self._server.rng, asyncio.get_running_loop()
        await asyncio.sleep(rng.uniform(0.001, self._server.longest))
        if rng.random() < trouble.slow:
            until = loop.time() + rng.uniform(0.0, trouble.seconds)
            self._server.on_slow(self._process, until - loop.time())
            while loop.time() < until and self._server.trouble is trouble:
                await asyncio.sleep(min(until - loop.time(), 1.0))
        if self._server.is_away:
            self._server.disconnect(self._connected)
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
