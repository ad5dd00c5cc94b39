"""Wakes idle dispatchers when new work has been committed.

On SQLite, an idle dispatcher watches the log of the file with inotify: a commit wakes it within a millisecond, and idling costs
nothing. On systems without inotify, it only polls.

On PostgreSQL, it listens. Processes that store work send notifications, which name the endpoint; without a name, any endpoint
may have new work. A commit with a notification holds a lock until it is on disk, and only one commit in the whole server can hold
this lock. So a producer may do without (``enqueue(..., wake=False)``).

PgBouncer in transaction mode accepts ``LISTEN``, and forwards no notification. So a dispatcher first sends a notification to
itself. If that does not arrive, it asks ten times a second for the endpoints with new deliveries.

A dispatcher still polls: a notification may be lost.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import sys
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

from sqlalchemy import func, select

from resonant.store import schema

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from asyncinotify import Inotify
    from sqlalchemy import ColumnElement, Connection, Executable
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.sql.functions import Function

logger = logging.getLogger(__name__)

CHANNEL = "resonant_work"
# By its own notification on this channel, a dispatcher learns that it hears those of others.
_ECHO_CHANNEL = "resonant_echo"
_NEWEST = f"SELECT coalesce(max(id), 0) FROM {schema.deliveries.name}"  # noqa: S608 - our own name
_NEWER = f"SELECT max(id), array_agg(DISTINCT endpoint) FROM {schema.deliveries.name} WHERE id > $1"  # noqa: S608
_ASK_SECONDS = 0.1
# How long its own notification may take.
_ECHO_SECONDS = 2.0
# The longest and the shortest interval between two checks for the commit after a write to the log.
_CHECK_SECONDS, _SHORTEST_CHECK_SECONDS = 0.01, 0.001
# How long to expect a commit after a write to the log; a slower one is found by the poll.
_SYNC_SECONDS = 0.25
# Writes that are further apart belong to different transactions.
_GAP_SECONDS = 2 * _CHECK_SECONDS
_CONNECT_AGAIN_SECONDS = 1.0


def announce(connection: Connection) -> None:
    """Wake every idle dispatcher when this transaction commits."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(notify("")))


def notify(endpoint: ColumnElement[str] | str) -> Function[Any]:
    """Return the SQL expression that notifies of new work for an endpoint; an empty name stands for any endpoint."""
    return func.pg_notify(CHANNEL, endpoint)


async def sqlite_commits(path: Path) -> AsyncGenerator[frozenset[str] | None]:
    """Yield None soon after any connection has committed a change to an SQLite file.

    A commit is written to the log and then synced to the disk before it becomes visible. So after a write, this function checks
    several times whether there is a new commit, at first every millisecond.

    Args:
        path: the file, which must exist.
    """
    now = asyncio.get_running_loop().time

    def pause() -> float:
        return min(max(_SHORTEST_CHECK_SECONDS, (now() - began_at) / 10), _CHECK_SECONDS)

    with ExitStack() as stack:
        try:
            connection = stack.enter_context(closing(_opened(path)))
            watch = stack.enter_context(_watched(f"{path}-wal"))
        except (sqlite3.Error, OSError, RuntimeError) as error:
            level = logging.WARNING if sys.platform == "linux" else logging.INFO
            logger.log(level, "new work is found only by polling: %s", error)
            return
        seen = None
        began_at = written_at = now()
        while True:
            if (version := _version(connection)) not in {None, seen}:
                seen, began_at = version, now()
                yield None
            is_quiet = now() - written_at >= _SYNC_SECONDS
            if await _is_written(watch, None if is_quiet else pause()):
                if now() - written_at > _GAP_SECONDS:
                    began_at = now()
                written_at = now()
                await asyncio.sleep(pause())  # a large transaction writes many times


async def _is_written(watch: Inotify, seconds: float | None) -> bool:
    """Wait for a write to the watched file for this many seconds, or without end; return whether there was one."""
    try:
        async with asyncio.timeout(seconds):
            await watch.get()
    except TimeoutError:
        return False
    return True


def _watched(path: str) -> Inotify:
    """Watch the writes to a file.

    Raises:
        OSError: the system has no inotify, or too many watches.
        RuntimeError: the C library was not found.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "no inotify on this system")
    from asyncinotify import Inotify, Mask  # noqa: PLC0415 - fails on other systems

    watch = Inotify()
    try:
        watch.add_watch(path, Mask.MODIFY)
    except OSError:
        watch.close()
        raise
    return watch


async def postgresql_commits(
    connect: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
    execute: Callable[[Executable], Awaitable[object]],
) -> AsyncGenerator[frozenset[str] | None]:
    """Yield soon after announced transactions have been committed; reconnect if the connection breaks.

    Args:
        connect: checks out a connection, outside of a transaction; it is closed at the end.
        execute: runs a statement on another connection, and commits.

    Yields:
        The endpoints with new work; None if unknown.
    """
    woken, echoed = asyncio.Event(), asyncio.Event()
    names: set[str] = set()
    me = uuid4().hex

    def wake(endpoint: str = "") -> None:
        names.add(endpoint)
        woken.set()

    def hear(sender: str) -> None:
        if sender == me:
            echoed.set()

    while True:
        with suppress(Exception):  # drivers fail in many ways, and the next transaction reports it
            async with connect() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                try:
                    driver.add_termination_listener(lambda _connection: wake())
                    await driver.add_listener(CHANNEL, lambda _connection, _pid, _channel, name: wake(name))
                    await driver.add_listener(_ECHO_CHANNEL, lambda *received: hear(received[-1]))
                    echoed.clear()
                    await execute(select(func.pg_notify(_ECHO_CHANNEL, me)))
                    hears = await _happens(echoed, _ECHO_SECONDS)
                    if not hears:
                        logger.info(
                            "notifications do not arrive (PgBouncer in transaction mode?): asking for new work"
                        )
                        await driver.execute("UNLISTEN *")  # the session has other clients
                        seen = await driver.fetchval(_NEWEST)
                    wake()  # for work committed earlier
                    while not driver.is_closed():
                        await _happens(woken, None if hears else _ASK_SECONDS)
                        newest, found = (None, ()) if hears else await driver.fetchrow(_NEWER, seen)
                        if newest is not None:
                            seen = newest
                            names.update(found)
                            woken.set()
                        if woken.is_set():
                            woken.clear()
                            named = frozenset(names)
                            names.clear()
                            yield None if "" in named else named
                finally:
                    await connection.invalidate()  # the pool must not reuse a connection with listeners
        await asyncio.sleep(_CONNECT_AGAIN_SECONDS)


async def _happens(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event for this many seconds, or without end; return whether it happened."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _opened(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
    _version(connection)  # creates the log
    return connection


def _version(connection: sqlite3.Connection) -> int | None:
    """Return a number that changes with each commit of another connection; None if the file cannot be read."""
    with suppress(sqlite3.Error):  # the next transaction reports it
        return int(connection.execute("PRAGMA data_version").fetchone()[0])
    return None
