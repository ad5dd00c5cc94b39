"""Wakes idle dispatchers when new work has been committed.

On SQLite, an idle dispatcher checks every 10 ms whether the file has changed. On PostgreSQL, it listens, and processes that
store work notify it. A commit with a notification holds a lock until it is on disk, and only one commit in
the whole server can hold this lock. So a producer may do without (``enqueue(..., wake=False)``).

A dispatcher still polls: a notification may be lost, for example behind PgBouncer in transaction mode.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import func, select

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

logger = logging.getLogger(__name__)

CHANNEL = "resonant_work"
# At this interval, an idle run uses 0.9 % of a core; at 5 ms, 1.3 %.
_CHECK_SECONDS = 0.01
_CONNECT_AGAIN_SECONDS = 1.0
NOTIFY = func.pg_notify(CHANNEL, "")


def announce(connection: Connection) -> None:
    """Wake every idle dispatcher when this transaction commits."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(NOTIFY))


async def sqlite_commits(path: Path) -> AsyncGenerator[None]:
    """Yield soon after any connection has committed a change to an SQLite file.

    Args:
        path: the file, which must exist.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    try:
        watching = _opened(path)
    except sqlite3.Error as error:
        logger.warning("new work is found only by polling: %s", error)
        return
    with closing(watching) as connection:
        seen = 0
        timer: asyncio.TimerHandle

        def check() -> None:
            # Timers cost less than a coroutine that sleeps.
            nonlocal seen, timer
            with suppress(sqlite3.Error):  # the next transaction reports it
                if (version := _version(connection)) != seen:
                    seen = version
                    changed.set()
            timer = loop.call_later(_CHECK_SECONDS, check)

        check()
        try:
            while True:
                await changed.wait()
                changed.clear()
                yield
        finally:
            timer.cancel()


async def postgresql_commits(
    connect: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
) -> AsyncGenerator[None]:
    """Yield soon after an announced transaction has been committed; reconnect if the connection breaks.

    Args:
        connect: checks out a connection, in a transaction; it is closed at the end.
    """
    woken = asyncio.Event()

    def wake(*_: object) -> None:
        woken.set()

    while True:
        with suppress(Exception):  # drivers fail in many ways, and the next transaction reports it
            async with connect() as connection:
                await connection.rollback()
                driver: Any = (await connection.get_raw_connection()).driver_connection
                try:
                    driver.add_termination_listener(wake)
                    await driver.add_listener(CHANNEL, wake)
                    wake()  # for work committed earlier
                    while not driver.is_closed():
                        await woken.wait()
                        woken.clear()
                        yield
                finally:
                    await connection.invalidate()  # the pool must not reuse a connection with listeners
        await asyncio.sleep(_CONNECT_AGAIN_SECONDS)


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=0, isolation_level=None)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])
