"""Searches deliveries in the order of a list, for a limited time: a page must not read a million rows.

The search reads windows of the list, each with a bounded number of rows, one after the other. So it can stop after each window, and
go on from there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Text, bindparam, select, tuple_

from resonant.events import Clock
from resonant.store import schema
from resonant.store.queue.leases import unfinished_names
from resonant.store.views.dead_letters import DeadLetters, Position, bound, positions
from resonant.store.views.selection import Selection

# The rows of the first window of each endpoint, or of the only one. Windows grow while they are read quickly.
FIRST_ROWS = 64
_FACTOR, _QUICK_SECONDS = 4, 0.008
_d = schema.deliveries


class Found(NamedTuple):
    """Positions of deliveries, in the order of the list.

    Attributes:
        stopped_at: the time was over here; None if the search found all, or as many as it should.
    """

    positions: list[Position]
    stopped_at: Position | None


def find_unfinished(
    connection: Connection, selection: Selection, *, status: str | None, **limits: Any
) -> Found:
    """Find unfinished deliveries, earliest due first; ``limits`` are those of ``find_delivered``."""
    names = unfinished_names() if selection.endpoint is None else _one_name(selection.endpoint)
    conditions = [_d.c.available_at.is_not(None), *selection.of_unfinished()]
    if status is not None:
        conditions.append(_d.c.status == status)
    key = (_d.c.available_at, _d.c.id)
    of_name = select(_d.c.id).where(_d.c.endpoint == names.c.name, _d.c.available_at.is_not(None))
    # Each endpoint has its own part of the index: the window ends where the first of these parts has enough rows.
    ends = select(*key).select_from(names)
    if selection.endpoint is None and not selection.ids:
        conditions.append(_d.c.endpoint.in_(select(names.c.name).where(names.c.name.is_not(None))))
    window = _Window(key, ends, of_name.correlate(names), newest_first=False)
    return _search(connection, window, conditions, has_ids=bool(selection.ids), **limits)


def find_dead_letters(connection: Connection, selection: Selection, *, limit: int, **limits: Any) -> Found:
    """Find dead letters, newest first; ``limits`` are those of ``find_delivered``."""
    selected = DeadLetters.of(connection, selection)
    if selection.text is None and (selection.source is None or selection.ids):
        return Found(selected.newest(connection, limit=limit, before=limits["after"]), None)
    return _search(
        connection, _ended(schema.is_dead_letter), selected.conditions(), has_ids=False, limit=limit, **limits
    )


def find_delivered(
    connection: Connection,
    selection: Selection,
    *,
    limit: int,
    after: Position | None,
    seconds: float,
    steady: Clock,
) -> Found:
    """Find deliveries that succeeded, newest first.

    Args:
        limit: the most positions.
        after: continue after this position.
        seconds: begin no window after this time.
        steady: a monotonic clock, in seconds.
    """
    conditions = [schema.is_delivered, *selection.of_delivered()]
    limits: dict[str, Any] = {"limit": limit, "after": after, "seconds": seconds, "steady": steady}
    return _search(connection, _ended(schema.is_delivered), conditions, has_ids=bool(selection.ids), **limits)


class _Window(NamedTuple):
    key: tuple[ColumnElement[Any], ColumnElement[Any]]
    ends: Select[Any] | None
    rows: Select[Any]
    newest_first: bool

    def after(self, position: Position | None) -> list[ColumnElement[bool]]:
        if position is None:
            return []
        given = bound(self.key, position)
        return [tuple_(*self.key) < given if self.newest_first else tuple_(*self.key) > given]

    def until(self, position: Position | None) -> list[ColumnElement[bool]]:
        if position is None:
            return []
        given = bound(self.key, position)
        return [tuple_(*self.key) >= given if self.newest_first else tuple_(*self.key) <= given]

    def order(self) -> list[ColumnElement[Any]]:
        return [column.desc() if self.newest_first else column for column in self.key]

    def end(self, connection: Connection, after: Position | None, rows: int) -> Position | None:
        """Return the position of the last row of a window; None if fewer rows are left."""
        # An offset within one window.
        last = self.rows.where(*self.after(after)).order_by(*self.order()).limit(1).offset(rows - 1)
        query = last if self.ends is None else self.ends.join(_d, _d.c.id == last.scalar_subquery())
        return next(iter(positions(connection, query.order_by(None).order_by(*self.order()).limit(1))), None)


def _one_name(endpoint: str) -> Any:
    return select(bindparam("of", endpoint, type_=Text()).label("name")).cte()


def _ended(is_of_list: ColumnElement[bool]) -> _Window:
    key = (_d.c.finished_at, _d.c.id)
    return _Window(key, None, select(*key).where(is_of_list), newest_first=True)


def _search(
    connection: Connection,
    window: _Window,
    conditions: Sequence[ColumnElement[bool]],
    *,
    has_ids: bool,
    limit: int,
    after: Position | None,
    seconds: float,
    steady: Clock,
) -> Found:
    found: list[Position] = []
    begun, rows = steady(), FIRST_ROWS
    while True:
        began = steady()
        # An index finds ids at once.
        end = None if has_ids else window.end(connection, after, rows)
        query = select(*window.key).where(*conditions, *window.after(after), *window.until(end))
        found += positions(connection, query.order_by(*window.order()).limit(limit - len(found)))
        now = steady()
        if end is None or len(found) == limit:
            return Found(found, None)
        if now - begun >= seconds:
            return Found(found, end)
        after, rows = end, rows * _FACTOR if now - began < _QUICK_SECONDS else rows
