"""Old minutes of the rollups gathered into hours, and old hours into days; what they add up to never changes.

An hour is a row whose minute is the start of the hour. One transaction takes rows out and adds them there, so every
reader sees the whole sum; a row that a writer adds to meanwhile is locked by one of the two, and one whose clock is
behind makes a new minute, which the next compaction finds. Alerts read minutes of the last 25 hours.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from sqlalchemy import and_, bindparam, delete, func, select

from resonant.store import schema
from resonant.store.rollups import Measure, add_to_rollups

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

    from resonant.store.store import Store

MINUTES_KEPT_SECONDS = 48 * 3600
HOURS_KEPT_SECONDS = 60 * 86_400
_HOUR, _DAY = 3600, 86_400
_ROWS_AT_ONCE = 1_000
# Between two transactions, so that those who wait for the write lock come in: see purging.py.
_PAUSE_SECONDS = 0.004
_r = schema.rollups


class Span(NamedTuple):
    """Rows of one measure that become one hour or one day: those after ``start``, before ``end`` (both since the epoch)."""

    measure: str
    start: int
    end: int


async def compact(store: Store) -> int:
    """Gather what is old enough; safe beside writers and beside another compaction, and when killed at any moment.

    Returns:
        How many rows were taken out.

    Raises:
        StoreUnavailable: the store went away; what was gathered before is gathered.
    """
    taken = 0
    for span in await store.read(find_spans, now=store.clock()):
        while rows := await store.write(gather, span, limit=_ROWS_AT_ONCE):
            taken += rows
            await asyncio.sleep(_PAUSE_SECONDS)
    return taken


def find_spans(connection: Connection, *, now: float) -> list[Span]:
    """Return the hours and the days that old rows are to be gathered into.

    Args:
        connection: its transaction.
        now: seconds since the epoch.
    """
    hours_before = int((now - MINUTES_KEPT_SECONDS) // _HOUR) * _HOUR
    days_before = int((now - HOURS_KEPT_SECONDS) // _DAY) * _DAY
    spans = set()
    for measure in get_args(Measure):
        for minute in connection.execute(_minutes_before(measure, hours_before)).scalars():
            size = _DAY if minute < days_before else _HOUR
            start = minute // size * size
            if minute != start:
                spans.add(Span(measure, start, start + size))
    return sorted(spans)


def gather(connection: Connection, span: Span, *, limit: int) -> int:
    """Take up to ``limit`` rows out of a span, and add them to the row at its start; return how many there were."""
    inside = and_(_r.c.measure == span.measure, _r.c.minute > span.start, _r.c.minute < span.end)
    key = list(_r.primary_key.columns)
    query = select(_r).where(inside).order_by(*key).limit(limit).with_for_update()
    rows = connection.execute(query).mappings().all()
    if not rows:
        return 0
    names = [column.name for column in key]
    these = delete(_r).where(*(column == bindparam(f"key_{column.name}") for column in key))
    connection.execute(these, [{f"key_{name}": row[name] for name in names} for row in rows])
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        moved = {**row, "minute": span.start}
        known = sums.setdefault(tuple(moved[name] for name in names), moved)
        if known is not moved:
            known["count"] += moved["count"]
            known["total"] += moved["total"]
    add_to_rollups(connection, [sums[each] for each in sorted(sums)])
    return len(rows)


def _minutes_before(measure: str, end: int) -> Select[Any]:
    """Return a measure's minutes, hours and days before this: a look into the key for each, however many rows they have."""
    first = select(func.min(_r.c.minute).label("minute")).where(_r.c.measure == measure)
    minutes = first.cte("minutes", recursive=True)
    following = select(func.min(_r.c.minute)).where(_r.c.measure == measure, _r.c.minute > minutes.c.minute)
    minutes = minutes.union_all(
        select(following.correlate(minutes).scalar_subquery()).where(minutes.c.minute < end)
    )
    return select(minutes.c.minute).where(minutes.c.minute < end)
