"""Finishes an upgrade that moves rows, in short transactions, between which producers store events."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from sqlalchemy import Connection, text

from resonant.store.engine.sync import Sync
from resonant.store.engine.table_locks import run_between_others
from resonant.store.migrations import v0012_sources_apart as v0012

T = TypeVar("T")
# Takes the number of deliveries moved so far, and their total.
ShowProgress: TypeAlias = Callable[[int, int], None]

logger = logging.getLogger(__name__)

# The target duration of a transaction, in seconds, and the bounds of its number of events.
_TRANSACTION_SECONDS = {"sqlite": 0.4, "postgresql": 0.25}
_FEWEST, _FIRST, _MOST = 20, 200, 20_000
# SQLite's lock has no queue: while it is free, waiting writers must notice it, and Python's driver checks every 0.1 s.
_PAUSE_SECONDS = {"sqlite": 0.12, "postgresql": 0.004}
# The wait for events that other transactions are moving.
_WAIT_SECONDS = 0.5
_LOG_SECONDS = 5.0


class _Database(Protocol):
    async def write(self, operation: Callable[[Connection], T], /, *, sync: Sync = "always") -> T: ...


class _Step(NamedTuple):
    moved: v0012.Moved
    total: int
    began_at: float
    database: str


async def finish_moving(database: _Database, show_progress: ShowProgress | None = None) -> None:
    """Move the remaining rows of an upgrade, then drop the old tables. Several processes may do so at once.

    A process that is killed loses nothing, and the next one continues. Others wait for at most one transaction.

    Args:
        database: its schema has the current version.
        show_progress: called after each transaction; by default, a line is logged every few seconds.

    Raises:
        StoreUnavailable: the database became unreachable, or is full; the next process continues.
    """
    show = show_progress or _Log(str(database))
    for statement in await database.write(_preparations):
        await database.write(partial(_prepare, statement=statement))
    total = moved = after = 0
    most = _FIRST
    # Not synced: if the machine crashes, the last transactions are repeated.
    while step := await database.write(
        partial(_move_next, after=after, most=most, total=total), sync="never"
    ):
        events, deliveries, last = step.moved
        seconds = time.monotonic() - step.began_at
        if events > most / 2:
            aimed = int(events * _TRANSACTION_SECONDS[step.database] / seconds)
            most = max(_FEWEST, min(aimed, 2 * most, _MOST))
        total = step.total
        moved += deliveries
        show(moved, total)
        if last is None and not after:
            await database.write(_drop_old_tables)
        after = last or 0
        has_moved = events or deliveries
        await asyncio.sleep(min(_PAUSE_SECONDS[step.database], seconds) if has_moved else _WAIT_SECONDS)


def _preparations(connection: Connection) -> list[str]:
    return v0012.preparations(connection) if v0012.keep_old_tables(connection) else []


def _prepare(connection: Connection, *, statement: str) -> None:
    if v0012.keep_old_tables(connection):
        connection.exec_driver_sql(statement)


def _move_next(connection: Connection, *, after: int, most: int, total: int) -> _Step | None:
    """Move some events; return None if the old tables are gone."""
    began_at = time.monotonic()
    if not v0012.keep_old_tables(connection):
        return None
    if not total:
        total = connection.execute(text("SELECT count(*) FROM resonant_deliveries_0011")).scalar_one()
    moved = v0012.move_next(connection, after=after, most=most)
    return _Step(moved, total, began_at, connection.dialect.name)


def _drop_old_tables(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        run_between_others(connection, v0012.drop_old_tables)
    else:
        v0012.drop_old_tables(connection)


class _Log:
    """Logs the progress of a long upgrade."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._next_at = time.monotonic() + _LOG_SECONDS

    def __call__(self, moved: int, total: int) -> None:
        if time.monotonic() >= self._next_at:
            self._next_at += _LOG_SECONDS
            message = "%s: upgrading the store: %s of %s deliveries moved"
            logger.warning(message, self._database, f"{moved:,}", f"{total:,}")
