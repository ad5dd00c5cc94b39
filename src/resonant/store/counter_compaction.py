"""Rollups moved on: into totals, which counters are read from, and into a history; what they add up to never changes.

The emission adds to ``resonant_rollups`` alone. What is over there is moved into two tables at once: its totals over all
time, and when it was, by minute. Alerts read the history of the last 25 hours; what is older becomes hours, and later
days: rows whose minute is the start of the hour or of the day.

Rows move in one transaction, so readers always see the full sum, even after a crash. A compaction skips rows that a
writer has locked, so it never waits for a producer's long transaction; the next compaction moves them, and also rows
that arrive late for a minute that has moved. Two compactions take turns.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, delete, func, select, text, tuple_

from resonant.store import schema
from resonant.store.counters import add_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Select, Table

    from resonant.store.store import Store

# Past the minutes that workers write to now, whose clocks differ a little.
STAYING_SECONDS = 300
MINUTES_KEPT_SECONDS = 26 * 3600
HOURS_KEPT_SECONDS = 60 * 86_400
_HOUR, _DAY = 3600, 86_400
_ROWS_AT_ONCE = 1_000
# Between two transactions, so that waiting writers get the lock: see dead_letters/purge.py.
_PAUSE_SECONDS = 0.004
_r, _h = schema.rollups, schema.rollup_history
# Which waits for no writer and no vacuum of another table, and which only a compaction asks for.
_TAKE_TURNS = text(f"LOCK TABLE {schema.rollup_totals.name} IN SHARE UPDATE EXCLUSIVE MODE")


class Span(NamedTuple):
    """Rows of the history that become one hour or one day: after ``start``, before ``end`` (both since the epoch)."""

    start: int
    end: int


async def compact(store: Store) -> int:
    """Move what is old enough; safe beside writers and beside another compaction, and when killed at any moment.

    Returns:
        How many rows of the history were gathered into hours and days.

    Raises:
        StoreUnavailable: the store went away; what was moved before is moved.
    """
    now = store.clock()
    await store.fold()
    moved = _ROWS_AT_ONCE
    while moved == _ROWS_AT_ONCE:
        moved = await store.write(move, now=now, limit=_ROWS_AT_ONCE)
        await asyncio.sleep(_PAUSE_SECONDS)
    gathered = 0
    for span in await store.read(find_spans, now=now):
        while rows := await store.write(gather, span, limit=_ROWS_AT_ONCE):
            gathered += rows
            await asyncio.sleep(_PAUSE_SECONDS)
    return gathered


def move(connection: Connection, *, now: float, limit: int) -> int:
    """Take up to ``limit`` rows that are over out of the rollups, into totals and history; return how many there were.

    Args:
        connection: its transaction.
        now: seconds since the epoch.
        limit: how many at most.
    """
    _take_turns(connection)
    rows = _take(connection, _r, _r.c.minute < int(now - STAYING_SECONDS), limit)
    for table in (schema.rollup_totals, _h):
        _add_up(connection, rows, table, names=_r.columns.keys())
    return len(rows)


def find_spans(connection: Connection, *, now: float) -> list[Span]:
    """Return the hours and the days that old rows of the history are to be gathered into.

    Args:
        connection: its transaction.
        now: seconds since the epoch.
    """
    hours_before = int((now - MINUTES_KEPT_SECONDS) // _HOUR) * _HOUR
    days_before = int((now - HOURS_KEPT_SECONDS) // _DAY) * _DAY
    spans = set()
    for minute in connection.execute(_minutes_before(hours_before)).scalars():
        size = _DAY if minute < days_before else _HOUR
        start = minute // size * size
        if minute != start:
            spans.add(Span(start, start + size))
    return sorted(spans)


def gather(connection: Connection, span: Span, *, limit: int) -> int:
    """Take up to ``limit`` rows out of a span, and add them to those at its start; return how many there were."""
    _take_turns(connection)
    rows = _take(connection, _h, and_(_h.c.minute > span.start, _h.c.minute < span.end), limit)
    # The minute is the first of them.
    _add_up(connection, [(span.start, *row[1:]) for row in rows], _h, names=_h.columns.keys())
    return len(rows)


def _take_turns(connection: Connection) -> None:
    """Wait until no other compaction is in a transaction; in SQLite nobody is who writes."""
    if connection.dialect.name == "postgresql":
        connection.execute(_TAKE_TURNS)


def _take(
    connection: Connection, table: Table, condition: ColumnElement[bool], limit: int
) -> Sequence[Sequence[Any]]:
    """Take rows out that nobody else holds; return them as tuples of all columns."""
    key = list(table.primary_key.columns)
    picked = select(*key).where(condition).limit(limit).with_for_update(skip_locked=True).cte("picked")
    those = delete(table).where(condition, tuple_(*key).in_(select(picked))).returning(table)
    return connection.execute(those).all()


def _add_up(connection: Connection, rows: Iterable[Sequence[Any]], table: Table, names: list[str]) -> None:
    """Add rows with columns of these names, of which count and total are the last, to a table that has fewer of them."""
    key_names = table.primary_key.columns.keys()
    key_of = itemgetter(*map(names.index, key_names))
    sums: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, 0.0])
    for row in rows:
        each = sums[key_of(row)]
        each[0] += row[-2]
        each[1] += row[-1]
    if sums:
        columns = (*key_names, "count", "total")
        add_to(
            table,
            connection,
            [dict(zip(columns, (*key, *each), strict=True)) for key, each in sorted(sums.items())],
        )


def _minutes_before(end: int) -> Select[Any]:
    """Return the minutes, hours and days before this: a look into the key for each, however many rows they have."""
    minutes = select(func.min(_h.c.minute).label("minute")).cte("minutes", recursive=True)
    following = select(func.min(_h.c.minute)).where(_h.c.minute > minutes.c.minute)
    minutes = minutes.union_all(
        select(following.correlate(minutes).scalar_subquery()).where(minutes.c.minute < end)
    )
    return select(minutes.c.minute).where(minutes.c.minute < end)
