"""Counts of committed transactions, one row each, and the fold of these rows into the rollups and the sketches.

Each commit inserts one row. Updating the rollups would take many statements and three times as long.
``fold`` moves rows in one transaction, so readers that add up both see the same sums in every snapshot. Dispatchers fold every
five seconds; compactions fold too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from resonant.store import schema
from resonant.store.counters import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_t = schema.tallies
_COLUMNS = (_t.c.minute, _t.c.entries, _t.c.seconds)


def is_any(connection: Connection) -> bool:
    """Return whether there are rows to fold."""
    return connection.execute(select(_t.c.id).limit(1)).first() is not None


def fold(connection: Connection, *, limit: int) -> int:
    """Move up to ``limit`` rows; return their number. Rows locked by another fold are skipped."""
    picked = select(_t.c.id).order_by(_t.c.id).limit(limit).with_for_update(skip_locked=True).cte("picked")
    taking = delete(_t).where(_t.c.id.in_(select(picked.c.id))).returning(*_COLUMNS)
    taken = list(connection.execute(taking))
    for tally in _added_up(taken):
        tally.settle(connection)
    return len(taken)


def read(connection: Connection) -> list[Tally]:
    """Return the counts that are not folded yet, one tally per minute."""
    return _added_up(list(connection.execute(select(*_COLUMNS))))


def read_rows(connection: Connection, *, since: float = 0) -> Iterator[dict[str, Any]]:
    """Yield unfolded counts as rows of the rollups, from the minute ``since`` (seconds since the epoch)."""
    for tally in read(connection):
        if tally.minute >= int(since):
            yield from tally.rows()


def _added_up(rows: list[Any]) -> list[Tally]:
    found: dict[int, Tally] = {}
    for minute, entries, seconds in rows:
        found.setdefault(minute, Tally(minute)).add_row(entries, seconds)
    return [tally for _, tally in sorted(found.items())]
