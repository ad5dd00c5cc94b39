"""Compaction of the rollups into totals, for the counters, and a history. No sum changes.

Runs add only to ``resonant_rollups``. A compaction moves past minutes from there to two tables at once: the totals over all
time, and the history by minute. Alerts read the last 25 hours of the history. Older minutes are merged into hours, and later
into days: rows whose minute is the start of the hour or day.

Rows move in one transaction, so readers always see the full sum, even after a crash. A compaction skips rows that a
writer has locked, so it never waits for a producer's long transaction. The next compaction moves them, and late rows
of minutes already moved. Only one compaction runs at a time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, select, text, tuple_

from resonant.store import schema
from resonant.store.counts import sketches
from resonant.store.counts.counters import add_to
from resonant.store.counts.sketches import HOURS_KEPT_SECONDS, ROWS_AT_ONCE, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Table

    from resonant.store.worker import WorkerStore

# Rollups stay this long, so that workers whose clocks differ a little do not write to moved minutes.
STAYING_SECONDS = 300
MINUTES_KEPT_SECONDS = 26 * 3600
_HOUR, _DAY = 3600, 86_400
# The pause between two transactions lets waiting writers get the lock: see dead_letters/purge.py.
_PAUSE_SECONDS = 0.004
_r, _h = schema.rollups, schema.rollup_history
# Only compactions take this lock; it does not conflict with writers.
_TAKE_TURNS = text(f"LOCK TABLE {schema.rollup_totals.name} IN SHARE UPDATE EXCLUSIVE MODE")


async def compact(store: WorkerStore) -> int:
    """Move old rows. Safe to run alongside writers and other compactions, and to kill at any moment.

    Returns:
        The number of history rows merged into hours and days.

    Raises:
        StoreUnavailable: the store became unavailable; rows already moved stay moved.
    """
    now = store.clock()
    await store.fold()
    await _repeat(store, move, now=now)
    gathered = 0
    for span in await store.read(find_spans, now=now):
        gathered += await _repeat(store, gather, span)
    for span in await store.read(sketches.find_spans, now=now):
        await _repeat(store, sketches.gather, span)
    return gathered


async def _repeat(store: WorkerStore, operation: Callable[..., int], *args: Any, **options: Any) -> int:
    """Run an operation in one transaction after another, until one takes fewer rows than the limit; return their number."""
    taken = 0
    while True:
        rows = await store.write(operation, *args, **options, limit=ROWS_AT_ONCE)
        taken += rows
        await asyncio.sleep(_PAUSE_SECONDS)
        if rows < ROWS_AT_ONCE:
            return taken


def move(connection: Connection, *, now: float, limit: int) -> int:
    """Move up to ``limit`` rollups of past minutes into the totals and the history; return their number.

    Args:
        connection: in a transaction.
        now: seconds since the epoch.
        limit: the maximum number of rows.
    """
    _take_turns(connection)
    rows = _take(connection, _r, _r.c.minute < int(now - STAYING_SECONDS), limit)
    for table in (schema.rollup_totals, _h):
        _add_up(connection, rows, table)
    return len(rows)


def find_spans(connection: Connection, *, now: float) -> list[Span]:
    """Return the hours and days that old rows of the history should be merged into.

    Args:
        connection: in a transaction.
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
    """Merge up to ``limit`` rows after the start of a span into the rows at its start; return their number."""
    _take_turns(connection)
    rows = _take(connection, _h, and_(_h.c.minute > span.start, _h.c.minute < span.end), limit)
    _add_up(connection, [{**row, "minute": span.start} for row in rows], _h)
    return len(rows)


def _take_turns(connection: Connection) -> None:
    """Wait until no other compaction is in a transaction. SQLite has only one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(_TAKE_TURNS)


def _take(
    connection: Connection, table: Table, condition: ColumnElement[bool], limit: int
) -> Sequence[RowMapping]:
    """Delete unlocked rows and return them."""
    key = list(table.primary_key.columns)
    picked = select(*key).where(condition).limit(limit).with_for_update(skip_locked=True).cte("picked")
    those = delete(table).where(condition, tuple_(*key).in_(select(picked))).returning(table)
    return connection.execute(those).mappings().all()


def _add_up(connection: Connection, rows: Iterable[Mapping[Any, Any]], table: Table) -> None:
    """Sum rows by a table's key, and add the sums to the table."""
    names = table.primary_key.columns.keys()
    sums: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, 0.0])
    for row in rows:
        each = sums[tuple(row[name] for name in names)]
        each[0] += row["count"]
        each[1] += row["total"]
    names += ["count", "total"]
    if sums:
        added = [dict(zip(names, (*key, *each), strict=True)) for key, each in sorted(sums.items())]
        add_to(table, connection, added)


def _minutes_before(end: int) -> Select[Any]:
    """Select the minutes, hours and days before ``end``, with one index lookup for each."""
    minutes = select(func.min(_h.c.minute).label("minute")).cte("minutes", recursive=True)
    following = select(func.min(_h.c.minute)).where(_h.c.minute > minutes.c.minute)
    minutes = minutes.union_all(
        select(following.correlate(minutes).scalar_subquery()).where(minutes.c.minute < end)
    )
    return select(minutes.c.minute).where(minutes.c.minute < end)
