"""SQLite: one file, one writer at a time; transactions run in threads.

The module uses threads instead of an asynchronous driver: a transaction needs one switch instead of one per statement, and a
cancelled coroutine cannot stop it half way. The transaction commits or rolls back, and the next one waits for it.
"""

import asyncio
import errno
import logging
import math
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from resonant.errors import StoreLocked, StoreRefused
from resonant.events import Clock
from resonant.files import create_private, make_private_folder
from resonant.store.engine.database_errors import translated_database_errors
from resonant.store.engine.open_file import OpenFile
from resonant.store.engine.sql import HOST_CLOCK
from resonant.store.engine.sync import Sync
from resonant.store.engine.wakeup import sqlite_commits

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_BUSY_TIMEOUT_SECONDS = 30.0
# A warning follows after this wait for the lock, and again once a minute.
_WARN_SECONDS, _WARN_AGAIN_SECONDS = 2.0, 60.0
_LOOK_AGAIN_SECONDS = 0.002
# Long enough for a waiting process to get the lock between two transactions of this process.
_PAUSE_SECONDS = 2 * _LOOK_AGAIN_SECONDS
_READERS = 3
_PRIMARY_CODE = 0xFF  # masks SQLite's extended result codes
_LOG, _HAS_LOG, _IS_SYNCED = "resonant_log", "resonant_has_log", "resonant_is_synced"
_INCREMENTAL = 2  # SQLite's number for auto_vacuum=INCREMENTAL
_PAGES_AT_ONCE = 1_000
# A log that grew larger is truncated to this size once its content is in the database.
_MOST_LOG_BYTES = 32 * 1024 * 1024
_PRAGMAS = (
    "journal_mode=WAL",
    f"journal_size_limit={_MOST_LOG_BYTES}",
    "foreign_keys=ON",
    "cache_size=-65536",  # KiB
    "case_sensitive_like=ON",  # as on PostgreSQL
)


def path_of(url: URL) -> Path:
    """Return the path of the file in a database URL."""
    return Path(url.database or "").expanduser()


class SQLite:
    """A ``Database`` in an SQLite file."""

    def __init__(self, url: URL, *, host_clock: Clock = time.time) -> None:
        self._path = path = path_of(url)
        self._name = f"sqlite:///{path}"
        _prepare_file(path)
        self._file = OpenFile(path, self._name)
        self._reading = _make_engine(
            url.set(drivername="sqlite", database=str(path)),
            _Lock(self._name),
            self._file,
            host_clock,
        )
        self._writing = self._reading.execution_options(write=True)
        self._leasing = self._reading.execution_options(write=True, unsynced=True)
        self._writer = ThreadPoolExecutor(1, "resonant-store-writer")
        self._readers = ThreadPoolExecutor(_READERS, "resonant-store-reader")
        # Held during a `transaction`, so that no other write runs between its operations.
        self._turn = asyncio.Lock()

    def __str__(self) -> str:
        return self._name

    async def write(
        self,
        operation: Callable[[Connection], T],
        *,
        sync: Sync = "always",
        lock_seconds: float | None = None,
    ) -> T:
        """Run the operation in its own transaction; see ``Database``."""
        del lock_seconds
        async with self._turn:
            return await self.in_writer(
                self._write, operation, self._writing if sync == "always" else self._leasing
            )

    async def read(self, operation: Callable[[Connection], T]) -> T:
        """Run the operation on one snapshot; see ``Database``."""
        with translated_database_errors(self._name):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._readers, _run, self._reading, operation)

    @asynccontextmanager
    async def transaction(self) -> "AsyncIterator[_Transaction]":
        """Open a transaction for several operations; see ``Database``."""
        async with self._turn:
            stack = ExitStack()
            try:
                connection = await self.in_writer(stack.enter_context, self._begun(self._writing))
                yield _Transaction(self, connection)
            except BaseException as error:
                await self._end(stack, type(error), error, error.__traceback__)
                raise
            await self._end(stack, None, None, None)

    def commits(self) -> AsyncGenerator[frozenset[str] | None]:
        """Yield after commits of all connections, including this process's own; see ``Database``."""
        return sqlite_commits(self._path)

    async def reclaim_space(self) -> None:
        """Return free pages to the file system, in short transactions; see ``Database``."""
        there_is_more = True
        while there_is_more:
            there_is_more = await self.write(_reclaim_pages)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def forget_removed(self) -> str:
        """Write the log to the database file, and truncate it; see ``Database``."""

        def truncate_log() -> bool:
            with self._reading.connect() as connection:
                driver: Any = connection.connection.driver_connection
                is_busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return bool(is_busy)

        async with self._turn:
            is_busy = await self.in_writer(truncate_log)
        if is_busy:
            return f"{self._path.name}-wal, since another process is reading: run this again when it is done"
        # Even with `secure_delete`, SQLite may leave old cells in the unused part of a page that it rebuilds.
        return (
            f"single values in unused parts of {self._path.name}: `VACUUM` removes them, while nothing runs"
        )

    async def close(self) -> None:
        """Close every connection, after the current write."""

        def close() -> None:
            self._writer.shutdown()
            self._readers.shutdown()
            self._reading.dispose()

        await asyncio.to_thread(close)

    async def in_writer(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the writer thread."""
        with translated_database_errors(self._name):
            call = partial(function, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._writer, call)

    def _write(self, operation: Callable[[Connection], T], engine: Engine) -> T:
        with self._begun(engine) as connection:
            return operation(connection)

    @contextmanager
    def _begun(self, engine: Engine) -> Iterator[Connection]:
        """Begin a write transaction, commit it, and check that the file was not replaced meanwhile."""
        with engine.begin() as connection:
            # While this connection is open, the log stays the same file, unless it is deleted.
            log = connection.info.setdefault(_LOG, self._file.log_identity())
            yield connection
        self._file.check(log)

    async def _end(self, stack: ExitStack, *exit_arguments: Any) -> None:
        # Submitted at once and shielded, so that the transaction ends even if the caller is cancelled.
        ended = asyncio.wrap_future(self._writer.submit(stack.__exit__, *exit_arguments))
        with translated_database_errors(self._name):
            await asyncio.shield(ended)


class _Transaction:
    def __init__(self, database: SQLite, connection: Connection) -> None:
        self._database = database
        self._connection = connection

    async def run_sync(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._database.in_writer(operation, self._connection, *args, **kwargs)


def _run(engine: Engine, operation: Callable[[Connection], T]) -> T:
    with engine.connect() as connection:
        return operation(connection)


class _Lock:
    """SQLite's lock, which a statement waits for.

    SQLite's own busy handler sleeps up to 100 ms at a time. While another process writes continuously, it would rarely find the
    lock free. If two connections create a new file's WAL, SQLite does not wait at all.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting_since = math.inf
        self._warned_at = -math.inf

    def execute(self, driver: Any, statement: str) -> None:
        """Execute a statement that needs the lock.

        Raises:
            StoreLocked: another process held the lock for the connection's whole busy timeout.
        """
        (patience,) = driver.execute("PRAGMA busy_timeout").fetchone()  # milliseconds
        until = time.monotonic() + patience / 1000
        driver.execute("PRAGMA busy_timeout=0")
        try:
            while not _is_executed(driver, statement):
                now = time.monotonic()
                self._waiting_since = min(self._waiting_since, now)
                if now > max(self._waiting_since + _WARN_SECONDS, self._warned_at + _WARN_AGAIN_SECONDS):
                    self._warned_at = now
                    logger.warning("%s: another process holds its lock: waiting for it", self._name)
                if now > until:
                    raise StoreLocked(
                        f"{self._name}: another process holds its lock: try again when it is done"
                    )
                time.sleep(_LOOK_AGAIN_SECONDS)
            self._waiting_since = math.inf
        finally:
            driver.execute(f"PRAGMA busy_timeout={patience}")


def _is_executed(driver: sqlite3.Connection, statement: str) -> bool:
    try:
        driver.execute(statement)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True


def _reclaim_pages(connection: Connection) -> bool:
    """Return some free pages to the file system; return whether there may be more."""
    free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    if connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() != _INCREMENTAL or not free:
        return False
    # The pragma frees one page per step, and only executescript runs all steps. It also commits first, as the pragma requires.
    driver: Any = connection.connection.driver_connection
    driver.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
    return bool(free > _PAGES_AT_ONCE)


def _prepare_file(path: Path) -> None:
    """Create the file and its parent folders, private to the owner; SQLite creates the -wal and -shm with the same mode."""
    try:
        make_private_folder(path.parent)
        # Only create a new file: opening and closing a file in use would drop this process's locks on it.
        with suppress(FileExistsError):
            create_private(path, _empty_database())
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        is_truncated = path.is_file() and path.stat().st_size == 0
        if not (os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK)):
            raise PermissionError(errno.EACCES, "read-only for this user")
    except OSError as error:
        raise StoreRefused(
            f"sqlite:///{path}: it cannot be opened for writing ({error.strerror}): "
            "check its path and mode, or set RESONANT_DATABASE_URL"
        ) from None
    if is_truncated:
        raise StoreRefused(
            f"sqlite:///{path}: the file has 0 bytes, as after a failed copy: restore it from a backup, or remove it to begin "
            "with an empty store"
        )


def _empty_database() -> bytes:
    """Return the content of a file without tables.

    With incremental vacuum, a purge returns its free pages to the file system a few at a time. A full vacuum of a large file
    would hold the lock for a long time.
    """
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA user_version=0")  # writes the first pages of the file
        return connection.serialize()


def _make_engine(url: URL, lock: _Lock, file: OpenFile, host_clock: Clock) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": _BUSY_TIMEOUT_SECONDS},
        pool_size=1 + _READERS,
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        # Disables the driver's own BEGIN, which it sends late and never as IMMEDIATE; see `begin` below.
        connection.isolation_level = None
        connection.create_function(HOST_CLOCK, 0, host_clock)
        for pragma in _PRAGMAS:
            lock.execute(connection, f"PRAGMA {pragma}")
        # Some file systems allow no write-ahead log. Without it, unsynced commits could damage the file.
        record.info[_HAS_LOG] = connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        file.check()  # this connection has just opened the file by its path

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A write transaction takes the lock at once: a later upgrade fails at once instead of waiting.
        options = connection.get_execution_options()
        if options.get("write", False):
            is_synced = not (options.get("unsynced", False) and connection.info[_HAS_LOG])
            driver: Any = connection.connection.driver_connection
            if connection.info.get(_IS_SYNCED) != is_synced:
                driver.execute(f"PRAGMA synchronous={'FULL' if is_synced else 'NORMAL'}")
                connection.info[_IS_SYNCED] = is_synced
            lock.execute(driver, "BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")

    return engine
