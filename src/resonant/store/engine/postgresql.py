"""PostgreSQL through asyncpg, with many concurrent writers."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from resonant.errors import StillLocked, TryAgain
from resonant.store.engine.database_errors import READ_ONLY, sqlstate, translated_database_errors
from resonant.store.engine.sql import IS_OPEN
from resonant.store.engine.wakeup import postgresql_commits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import Connection, Executable
    from sqlalchemy.engine import URL, ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

    from resonant.store.engine.sync import Sync

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_SECONDS = 10
_OPENED_AT = "resonant_opened_at"
# How long a pooled connection may take for its first statement. Behind PgBouncer, that includes the wait for a free session.
_CHECK_SECONDS = 10.0
STATEMENT_TIMEOUT_SECONDS = 60
# A write transaction waits for a lock for a third of the lease, within these bounds. An idle transaction is ended after half
# of that time. The bounds leave time for deadlock detection (one second), and are shorter than the statement timeout.
_LEAST_LOCK_SECONDS, _MOST_LOCK_SECONDS = 4.0, 30.0
# Serialization failure, deadlock, and foreign-key violation (a purge removes an event while it is enqueued again). The server
# has rolled back, so the transaction can be repeated.
_TRY_AGAIN = ("40001", "40P01", "23503")
_TRIES = 4
_LOCK_NOT_AVAILABLE = "55P03"
_WARN_AGAIN_SECONDS = 60.0
# Each begins with one message: on an idle server, a round trip costs a third of a millisecond. READ COMMITTED regardless of the
# database's default: after a wait for a lock, its holder's writes must be visible. The bounds are set for the transaction only:
# PgBouncer may run the next one in another session.
_WRITE = """BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d;"""
_DO_NOT_SYNC = "SET LOCAL synchronous_commit = off;"
# Also if the default of the database or the user is off. Stronger defaults, such as remote_apply, stay.
_DO_SYNC = """SELECT set_config('synchronous_commit', 'on', true)
WHERE current_setting('synchronous_commit') = 'off';"""
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
_COMMIT = "COMMIT;"
_BEGIN, _END = "resonant_begin", "resonant_end"


class PostgreSQL:
    """A ``Database`` on PostgreSQL.

    Args:
        url: the database's URL.
        statement_timeout: how long the client waits for a statement, in seconds; None for a migration, which also waits
            for locks without limit.
        lease_seconds: the duration of leases; limits how long locks are held and awaited.
    """

    def __init__(
        self,
        url: URL,
        *,
        statement_timeout: float | None = STATEMENT_TIMEOUT_SECONDS,
        lease_seconds: float = 60.0,
    ) -> None:
        self._name = _without_secrets(url)
        query: dict[str, Any] = dict(url.query)
        if "sslmode" in query:
            # libpq's name for `ssl`, which most providers use in their URLs.
            query["ssl"] = query.pop("sslmode")
        if statement_timeout is None:
            self._lock_seconds, self._idle_seconds = 0.0, float(STATEMENT_TIMEOUT_SECONDS)
        else:
            self._lock_seconds = max(_LEAST_LOCK_SECONDS, min(lease_seconds / 3, _MOST_LOCK_SECONDS))
            self._idle_seconds = self._lock_seconds / 2
        # Imported here: it also loads SQLAlchemy's ORM, which SQLite does not need.
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

        self._warned_at = -math.inf
        self._engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg", query=query),
            pool_size=5,
            max_overflow=5,
            # This class begins and ends the transactions: SQLAlchemy would take a round trip more for each.
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            hide_parameters=True,
            connect_args={
                "timeout": _CONNECT_TIMEOUT_SECONDS,
                "command_timeout": statement_timeout,
                "server_settings": {"application_name": _application_name()},
            },
        )
        event.listen(self._engine.sync_engine, "begin", self._begin_again)
        event.listen(self._engine.sync_engine, "commit", self._commit)
        event.listen(self._engine.sync_engine, "reset", _roll_back)
        event.listen(self._engine.sync_engine, "handle_error", _give_up_read_only)

    def __str__(self) -> str:
        return self._name

    async def write(
        self,
        operation: Callable[[Connection], T],
        *,
        sync: Sync = "always",
        lock_seconds: float | None = None,
    ) -> T:
        """Run the operation in its own transaction, and repeat it after a deadlock or ``TryAgain``; see ``Database``."""
        with translated_database_errors(self._name):
            tries_left = _TRIES
            while True:
                tries_left -= 1
                try:
                    async with self._begun(self._idle_seconds, sync, lock_seconds) as connection:
                        result = await connection.run_sync(operation)
                        await connection.commit()
                        return result
                except TryAgain:
                    if not tries_left:
                        raise
                except DBAPIError as error:
                    if sqlstate(error) == _LOCK_NOT_AVAILABLE:
                        if lock_seconds is not None:
                            raise StillLocked(
                                f"{self._name}: another transaction holds a lock on it"
                            ) from None
                        self._warn_of_lock()
                    if sqlstate(error) not in _TRY_AGAIN or not tries_left:
                        raise

    async def read(self, operation: Callable[[Connection], T]) -> T:
        """Run the operation on one snapshot; see ``Database``."""
        with translated_database_errors(self._name):
            async with self._connected(_READ) as connection:
                return await connection.run_sync(operation)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[_Transaction]:
        """Open a transaction for several operations; see ``Database``."""
        # No idle timeout: the caller may wait between its operations.
        async with self._begun(0) as connection:
            yield _Transaction(connection, self._name)
            with translated_database_errors(self._name):
                await connection.commit()

    def commits(self) -> AsyncGenerator[frozenset[str] | None]:
        """Yield after commits with a notification; see ``Database``."""

        async def execute(statement: Executable) -> None:
            await self.write(lambda connection: connection.execute(statement))

        return postgresql_commits(lambda: self._connected("SELECT 1"), execute)

    async def reclaim_space(self) -> None:
        """Do nothing: autovacuum makes the space of removed rows available for new ones; see ``Database``."""

    async def forget_removed(self) -> str:
        """Do nothing: only the operators of the server can; see ``Database``."""
        return (
            "PostgreSQL's pages until a vacuum (`VACUUM FULL` rewrites them), its WAL, replicas and backups until "
            "they are rotated"
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    def _warn_of_lock(self) -> None:
        """Log that another transaction holds a lock, at most once a minute."""
        if time.monotonic() > self._warned_at + _WARN_AGAIN_SECONDS:
            self._warned_at = time.monotonic()
            message = "%s: another transaction holds a lock on it: waited %.3g s for it"
            logger.warning(message, self._name, self._lock_seconds)

    def _begun(
        self, idle_seconds: float, sync: Sync = "always", lock_seconds: float | None = None
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Begin a transaction that waits for locks and for its next statement within bounds."""
        end = _COMMIT
        if lock_seconds is None:
            lock_seconds = self._lock_seconds
        else:
            # A commit with a notification waits for those of others.
            end = f"SET LOCAL lock_timeout = {self._lock_seconds * 1000:.0f}; {_COMMIT}"
        begin = _WRITE % (lock_seconds * 1000, idle_seconds * 1000)
        return self._connected(begin + (_DO_NOT_SYNC if sync == "never" else _DO_SYNC), end)

    def _begin_again(self, connection: Connection) -> None:
        """Begin the next transaction of an operation that has ended one."""
        if not connection.info[IS_OPEN]:
            connection.info[IS_OPEN] = True
            with translated_database_errors(self._name, Exception):
                _run(connection.connection.dbapi_connection, connection.info[_BEGIN])

    def _commit(self, connection: Connection) -> None:
        driver: Any = connection.connection
        try:
            with translated_database_errors(self._name, Exception):
                _run(driver.dbapi_connection, connection.info[_END])
        except BaseException:
            driver.driver_connection.terminate()  # a rollback could wait as long again
            connection.invalidate()
            raise
        connection.info[IS_OPEN] = False

    @asynccontextmanager
    async def _connected(self, begin: str, end: str = _COMMIT) -> AsyncIterator[AsyncConnection]:
        """Check out a connection and begin a transaction; uncommitted changes are rolled back at the end.

        A connection from the pool may be lost. Then the transaction begins on a new one, after all other pooled connections
        were replaced.
        """
        now = asyncio.get_running_loop().time
        began_at, is_any_lost = now(), False
        async with AsyncExitStack() as stack:
            # Drivers and their options raise many kinds of errors.
            with translated_database_errors(self._name, Exception):
                while True:
                    connection = await stack.enter_async_context(self._engine.connect())
                    # SQLAlchemy clears `info` with each new connection to the server.
                    is_pooled = connection.info.setdefault(_OPENED_AT, now()) < began_at
                    try:
                        if not (is_pooled and is_any_lost):
                            async with asyncio.timeout(_CHECK_SECONDS if is_pooled else None):
                                connection.info.update({IS_OPEN: True, _BEGIN: begin, _END: end})
                                await _driver(connection).execute(begin)
                            break
                    except asyncio.CancelledError:
                        await _drop(connection)  # a rollback could wait for the driver's limit
                        raise
                    except Exception as error:
                        if not is_pooled:
                            raise
                        logger.info("%s: replacing its pooled connections: %r", self._name, error)
                        is_any_lost = True
                    await _drop(connection)
                    await stack.aclose()  # makes room in the pool
            yield connection


class _Transaction:
    def __init__(self, connection: AsyncConnection, database: str) -> None:
        self._connection = connection
        self._database = database

    async def run_sync(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with translated_database_errors(self._database):
            return await self._connection.run_sync(operation, *args, **kwargs)


def _roll_back(connection: Any, record: ConnectionPoolEntry, state: PoolResetState) -> None:
    """End the transaction of a connection that returns to the pool, unless it was committed."""
    is_open = record.info.pop(IS_OPEN, False)
    if is_open and not (state.terminate_only or connection.driver_connection.is_closed()):
        try:
            _run(connection, "ROLLBACK;")
        except Exception as error:  # noqa: BLE001 - SQLAlchemy would log its traceback
            connection.driver_connection.terminate()
            record.invalidate(error)


def _give_up_read_only(context: ExceptionContext) -> None:
    """Close all pooled connections to a server that refuses writes: after a failover, the primary is another one."""
    if sqlstate(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


def _run(connection: Any, statement: str) -> None:
    """Run a statement in one round trip: the driver does not prepare it."""
    connection.run_async(lambda driver: driver.execute(statement))


def _driver(connection: AsyncConnection) -> Any:
    """Return asyncpg's connection."""
    connected: Any = connection.sync_connection
    return connected.connection.driver_connection


async def _drop(connection: AsyncConnection) -> None:
    """Close a connection that may be lost, without waiting for the server to confirm it."""
    if not connection.invalidated:
        _driver(connection).terminate()
    await connection.invalidate()


def _without_secrets(url: URL) -> str:
    """Return a URL without its password, its options, and a user that may contain a part of the password."""
    user = url.username if re.fullmatch(r"[\w.-]*", url.username or "") else "hidden"
    return url.set(username=user, query={}).render_as_string(hide_password=True)


def _application_name() -> str:
    """Return the application name of this process, which identifies it on the server: at most 63 bytes of ASCII."""
    return f"resonant, process {os.getpid()} on {socket.gethostname()}".encode("ascii", "replace")[
        :63
    ].decode()
