"""Lists unfinished deliveries, earliest due first, and groups them by endpoint and failure."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, literal_column, or_, select

from resonant.events import Delivery, Status
from resonant.store import schema
from resonant.store.engine.sql import end_snapshot, is_any_of
from resonant.store.queue.leases import due
from resonant.store.shared.gates import Holds, are_of_types, read_gates
from resonant.store.views.dead_letters import Position, earliest, positions
from resonant.store.views.reads import ReceiverSide, answers, delivery_of, read_deliveries
from resonant.store.views.selection import Selection

State = Literal["in_flight", "due", "parked"]
_PAGE = 500
_d = schema.deliveries


class Waiting(NamedTuple):
    """An unfinished delivery with its position, by the time when it may be claimed, and the receiver's answer."""

    position: Position
    delivery: Delivery
    answered: ReceiverSide

    def state(self, now: float) -> State:
        """Return whether it is leased, may be sent now, or is due later."""
        if self.position.at <= now:
            return "due"
        return "parked" if self.delivery.leased_by is None else "in_flight"

    def why_held(self, holds: Holds, now: float) -> str:
        """Return why a gate holds it back; empty if it is not due or not held."""
        is_due = self.state(now) == "due"
        return holds.why(self.delivery.endpoint, self.delivery.event_type) if is_due else ""


@dataclass(frozen=True, slots=True)
class WaitingGroup:
    """Unfinished deliveries of one endpoint whose last attempt failed with the same code.

    Attributes:
        code: the classifier's code; empty before the first attempt.
        count: the number of deliveries.
        in_flight: the number of leased deliveries.
        parked: the number of deliveries that are due later.
        held: the number of due deliveries that the endpoint's gate holds back: all, or those of the types that fail.
        oldest_due_at: the earliest due time, seconds since the epoch.
        parked_until: the latest due time of the parked ones.
        most_attempts: the highest number of attempts.
        example, example_source: the event id and the source of one of the deliveries.
        error: the last error of the example, or empty.
        answer: the receiver's answer to the example, or empty.
    """

    endpoint: str
    code: str
    count: int
    in_flight: int
    parked: int
    held: int
    oldest_due_at: float
    parked_until: float | None
    most_attempts: int
    example: str
    example_source: str
    error: str
    answer: str

    @property
    def due(self) -> int:
        """Deliveries that are due and have no lease, including the held ones."""
        return self.count - self.in_flight - self.parked


def each_unfinished(
    connection: Connection,
    selection: Selection,
    *,
    status: Status | None = None,
    limit: int | None = None,
    after: Position | None = None,
) -> Iterator[Waiting]:
    """Yield unfinished deliveries, earliest due first, read in pages to limit memory use, each from its own snapshot.

    A delivery that becomes due later meanwhile may be yielded twice.

    Args:
        selection: selects deliveries; its times are acceptance times.
        status: only pending, or only retrying deliveries.
        after: continue after this position.
    """
    # One search for each endpoint: the index begins with it.
    searches = [
        [_d.c.endpoint == each.endpoint, *_conditions(selection, status)]
        for each in due(connection, selection.endpoint)
    ]
    key = (_d.c.available_at, _d.c.id)
    left = limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(_PAGE, left)
        found = [earliest(search, limit=size, after=after, key=key) for search in searches]
        page = heapq.nsmallest(size, (each for query in found for each in positions(connection, query)))
        waiting = waiting_at(connection, page)
        end_snapshot(connection)
        yield from waiting
        if len(page) < size:
            return
        left = None if left is None else left - size
        after = page[-1]


def waiting_at(connection: Connection, page: Sequence[Position]) -> list[Waiting]:
    """Return the unfinished deliveries at these positions."""
    ids = [each.id for each in page]
    rows = {row.id: row for row in read_deliveries(connection, ids)}
    said = answers(connection, ids)
    return [Waiting(each, delivery_of(rows[each.id]), said[each.id]) for each in page]


def count_unfinished(
    connection: Connection, selection: Selection, *, status: Status | None = None, at_most: int
) -> int:
    """Return the number of selected unfinished deliveries; counting stops at ``at_most``."""
    found: Select[Any] = (
        select(literal_column("1")).select_from(_d).where(*_conditions(selection, status)).limit(at_most)
    )
    return connection.execute(select(func.count()).select_from(found.subquery())).scalar_one()


def group_unfinished(
    connection: Connection, selection: Selection, *, now: float, status: Status | None = None
) -> list[WaitingGroup]:
    """Group unfinished deliveries by endpoint and code, the largest group of each endpoint first."""
    # A literal: with a bound value, PostgreSQL treats the expression as different from the one in GROUP BY.
    code = func.coalesce(_d.c.code, literal_column("''"))
    is_live = _d.c.available_at > now
    is_parked = and_(is_live, _d.c.lease_owner.is_(None))
    query = (
        select(
            _d.c.endpoint,
            code,
            func.count(),
            _count(and_(is_live, _d.c.lease_owner.is_not(None))),
            _count(is_parked),
            _count(and_(_d.c.available_at <= now, _is_held(connection, now))),
            func.min(_d.c.next_attempt_at),
            func.max(case((is_parked, _d.c.available_at))),
            func.max(_d.c.attempts),
            func.max(_d.c.id),
        )
        .where(*_conditions(selection, status))
        .group_by(_d.c.endpoint, code)
    )
    counted = connection.execute(query).all()
    ids = [row[-1] for row in counted]
    examples = {row.id: row for row in read_deliveries(connection, ids)}
    said = answers(connection, ids)
    groups = []
    for *counts, key in counted:
        example, answer = examples[key], said[key].answer or ""
        fields: list[Any] = [*counts, example.event_id, example.source, example.error or "", answer]
        groups.append(WaitingGroup(*fields))
    return sorted(groups, key=lambda group: (group.endpoint, -group.count, group.code))


def _is_held(connection: Connection, now: float) -> ColumnElement[bool]:
    """Return the condition that a gate holds a due delivery back; consistent with ``Holds``."""
    gates = read_gates(connection)
    holds = Holds(gates, now)
    endpoints = [name for name in gates if holds.state(name)]
    of_types = are_of_types({name: gate.failing_at(now) for name, gate in gates.items()})
    return or_(is_any_of(_d.c.endpoint, endpoints), of_types)


def _conditions(selection: Selection, status: Status | None) -> list[ColumnElement[bool]]:
    conditions = [_d.c.available_at.is_not(None), *selection.of_unfinished()]
    return conditions if status is None else [*conditions, _d.c.status == status]


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((condition, 1)))
