"""Search for dead letters: a selection finds causes, and an index finds the dead letters of these causes.

There are two ways to find the newest dead letters. For a single page and few causes, the search merges the newest dead letters
of each cause. Otherwise it scans the queue in the order in which deliveries were given up, and skips the dead letters of other
causes. That takes one index scan for any number of pages, and no sort.
"""

import heapq
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, func, literal, literal_column, or_, select, tuple_

from resonant.store import schema
from resonant.store.engine.sql import is_any_of
from resonant.store.queue.causes import ERASED
from resonant.store.views.selection import Selection

_FEW_CAUSES = 64
# Larger numbers do not fit into the column.
_MOST_ROUNDS = 2**31 - 1
_d, _c = schema.deliveries, schema.causes
_KEY = (_d.c.finished_at, _d.c.id)
_PLACE = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)-(\d{1,18})")


class Position(NamedTuple):
    """A delivery's position in a list: when it ended, or may be claimed (seconds since the epoch), and its id."""

    at: float
    id: int

    @classmethod
    def parse(cls, place: str) -> "Position | None":
        """Return the position of a place, as ``place`` writes it; None if it is not valid."""
        found = _PLACE.fullmatch(place)
        return cls(float(found[1]), int(found[2])) if found else None

    @property
    def place(self) -> str:
        """The position as text."""
        return f"{self.at!r}-{self.id}"


class CauseCount(NamedTuple):
    """The dead letters of one cause: their number, when the first and last were given up, and the highest delivery id."""

    cause_id: int
    number: int
    first_at: float
    last_at: float
    last_id: int


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead letters of a selection. The causes were read once, and are valid within the snapshot.

    Attributes:
        causes: the ids of their causes; None if the selection does not depend on the cause.
        varying: the causes whose dead letters must each be searched for the text.
        max_rounds: leave out dead letters that were given up in this many rounds; None for no limit.
    """

    selection: Selection
    causes: frozenset[int] | None
    varying: frozenset[int] = frozenset()
    max_rounds: int | None = None

    @classmethod
    def of(
        cls,
        connection: Connection,
        selection: Selection,
        *,
        include_permanent: bool = True,
        without_endpoints: Collection[str] = (),
        max_rounds: int | None = None,
        erased: bool | None = None,
    ) -> "DeadLetters":
        """Apply a selection to the causes.

        Args:
            connection: an open connection, also used to read the dead letters. If the selection depends on the cause, a later
                read does not see dead letters of causes committed since.
            include_permanent: include permanent failures.
            without_endpoints: skip the dead letters of these endpoints.
            max_rounds: skip those that were given up in this many rounds, unless ids are selected; None for no limit.
            erased: only those whose events were erased, or only the others; None for all.
        """
        max_rounds = None if selection.ids else max_rounds
        if include_permanent and not selection.is_by_cause and not without_endpoints and erased is None:
            return cls(selection, None, max_rounds=max_rounds)
        conditions = selection.of_causes()
        if not include_permanent:
            conditions.append(_c.c.category != "permanent")
        if erased is not None:
            conditions.append(_c.c.error_type == ERASED if erased else _c.c.error_type != ERASED)
        if without_endpoints:
            conditions.append(~is_any_of(_c.c.endpoint, list(without_endpoints)))
        found = connection.execute(select(_c.c.id, _c.c.varies).where(*conditions)).all()
        varying = frozenset(cause for cause, varies in found if varies and selection.text is not None)
        return cls(selection, frozenset(cause for cause, _ in found), varying, max_rounds)

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the SQL conditions for a scan of the queue."""
        # The zero keeps SQLite and PostgreSQL from using the index by cause and sorting a million rows for a page.
        return [*self._common(), *self._of_causes(_d.c.cause_id + literal_column("0"))]

    def count(
        self, connection: Connection, *, at_most: int | None = None, died_before: float | None = None
    ) -> int:
        """Return the number of dead letters.

        Args:
            connection: the connection that read the causes.
            at_most: stop counting at this number.
            died_before: count only those given up before this time, seconds since the epoch.
        """
        conditions = self._common()
        if died_before is not None:
            conditions.append(_d.c.finished_at < died_before)
        counted = 0
        for part in self._parts():
            left = None if at_most is None else at_most - counted
            found: Select[Any] = (
                select(literal_column("1")).select_from(_d).where(*conditions, *part).limit(left)
            )
            counted += connection.execute(select(func.count()).select_from(found.subquery())).scalar_one()
        return counted

    def count_by_cause(self, connection: Connection) -> list[CauseCount]:
        """Count the dead letters of each cause that has any."""
        moment, cause = _d.c.finished_at, _d.c.cause_id
        query = select(cause, func.count(), func.min(moment), func.max(moment), func.max(_d.c.id))
        query = query.where(*self._common()).group_by(cause)
        return [CauseCount(*row) for part in self._parts() for row in connection.execute(query.where(*part))]

    def endpoints(self, connection: Connection) -> list[str]:
        """Return the endpoints of the dead letters, sorted."""
        causes = [each.cause_id for each in self.count_by_cause(connection)]
        query = select(_c.c.endpoint).where(is_any_of(_c.c.id, causes)).distinct().order_by(_c.c.endpoint)
        return list(connection.execute(query).scalars())

    def newest(
        self, connection: Connection, *, limit: int, before: Position | None = None, goes_on: bool = False
    ) -> list[Position]:
        """Return the newest dead letters, newest first.

        Args:
            connection: the connection that read the causes.
            before: the last dead letter of the previous page; continue after it.
            goes_on: whether this is one of many pages.
        """
        query = select(*_KEY).order_by(*(column.desc() for column in _KEY)).limit(limit)
        if before is not None:
            query = query.where(tuple_(*_KEY) < bound(_KEY, before))
        if self.causes is not None and not goes_on and len(self.causes) <= _FEW_CAUSES:
            return self._newest_of_each(connection, query, limit)
        return positions(connection, query.where(*self.conditions()))

    def _newest_of_each(self, connection: Connection, query: Select[Any], limit: int) -> list[Position]:
        found: list[Position] = []
        for cause in self.causes or ():
            of_cause = query.where(*self._common(), _d.c.cause_id == cause)
            if cause in self.varying:
                of_cause = of_cause.where(self.selection.text_in(_d.c))
            found += positions(connection, of_cause)
        return heapq.nlargest(limit, found)

    def _common(self) -> list[ColumnElement[bool]]:
        found = [schema.is_dead_letter, *self.selection.of_dead_letters()]
        return found if self.max_rounds is None else [*found, _d.c.round < min(self.max_rounds, _MOST_ROUNDS)]

    def _of_causes(self, cause: ColumnElement[int]) -> list[ColumnElement[bool]]:
        if self.causes is None:
            return []
        found = [is_any_of(cause, self.causes)]
        if self.varying:
            found.append(or_(is_any_of(cause, self.causes - self.varying), self.selection.text_in(_d.c)))
        return found

    def _parts(self) -> Iterator[list[ColumnElement[bool]]]:
        """Yield conditions that partition the dead letters, so that each part uses the index by cause."""
        cause = _d.c.cause_id
        if self.causes is None or len(self.varying) > _FEW_CAUSES:
            yield self._of_causes(cause)
            return
        if whole := self.causes - self.varying:
            yield [is_any_of(cause, whole)]
        for varying in self.varying:
            yield [cause == varying, self.selection.text_in(_d.c)]


def after_deaths(connection: Connection, *, now: float) -> float:
    """Return ``now``, or a time just after the last death, if that is later since the store's clock was set back."""
    last = connection.execute(select(func.max(_d.c.finished_at)).where(schema.is_dead_letter)).scalar()
    return max(now, math.nextafter(last or 0.0, math.inf))


def earliest(
    conditions: Sequence[ColumnElement[bool]],
    *,
    limit: int | None,
    after: Position | None,
    key: Sequence[ColumnElement[Any]] = _KEY,
) -> Select[Any]:
    """Select the positions of deliveries, earliest first, after a position; ``key`` is a time and the id."""
    query = select(*key).where(*conditions).order_by(*key).limit(limit)
    return query if after is None else query.where(tuple_(*key) > bound(key, after))


def find_earliest(
    connection: Connection,
    is_status: ColumnElement[bool],
    is_before: ColumnElement[bool],
    others: Sequence[ColumnElement[bool]],
    *,
    searched: int,
    limit: int,
    after: Position | None,
) -> tuple[list[Position], Position | None]:
    """Find final deliveries in the order in which they ended, in one short search.

    Args:
        connection: in a transaction.
        is_status: selects the status, by an index in this order.
        is_before: limits the time when they ended.
        others: the other conditions.
        searched: the number of deliveries to search.
        limit: the maximum number to find.
        after: continue after this position.

    Returns:
        The positions found, and where to continue; None at the end.
    """
    bounds = [is_status, is_before]
    end = positions(connection, earliest(bounds, limit=1, after=after).offset(searched - 1))
    for each in end:
        # SQLite uses one upper bound with the index, the first one.
        bounds = [is_status, _d.c.finished_at <= each.at, tuple_(*_KEY) <= bound(_KEY, each)]
    found = positions(connection, earliest([*bounds, *others], limit=limit, after=after))
    return found, found[-1] if len(found) == limit else next(iter(end), None)


def positions(connection: Connection, query: Select[Any]) -> list[Position]:
    """Return the positions that a query selects."""
    return [Position(*row) for row in connection.execute(query)]


def bound(key: Sequence[ColumnElement[Any]], position: Position) -> ColumnElement[Any]:
    """Return a position as values to compare with a key."""
    return tuple_(*(literal(value, column.type) for value, column in zip(position, key, strict=True)))
