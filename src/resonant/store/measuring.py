"""What metrics are made of, read in one snapshot.

Counters come from the rollups, which only grow; gauges and a window's history come from the rows that are there now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from sqlalchemy import BigInteger, case, cast, func, or_, select

from resonant.store import schema

if TYPE_CHECKING:
    from sqlalchemy import Case, Connection, Select

_d, _a, _r = schema.deliveries, schema.attempts, schema.rollups
_FLOATS = (
    *("accepted_at", "finished_at", "started_at", "duration"),
    *("delay", "round_attempt", "retry_after"),
)


class Counted(NamedTuple):
    """A counter since the store began, over all minutes and event types; see ``rollups`` for the measures.

    Attributes:
        le: upper bound of the bucket, seconds; what is in lower buckets is not in ``number``.
        number: how many facts.
        seconds: sum of what was measured.
    """

    measure: str
    endpoint: str
    result: str
    category: str
    code: str
    le: float
    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters and gauges; every time is seconds since the epoch.

    Attributes:
        endpoints: every endpoint that has ever accepted an event.
        deliveries: how many, by endpoint and status.
        dead_letters: how many, by endpoint, category and reason.
        oldest_due_at, oldest_dead_at: by endpoint, where there is one.
        last_seen_at: the minute in which a worker last recorded an attempt, by endpoint; a purge does not change it.
    """

    taken_at: float
    endpoints: tuple[str, ...]
    counted: tuple[Counted, ...]
    deliveries: dict[tuple[str, str], int]
    dead_letters: dict[tuple[str, str, str], int]
    oldest_due_at: dict[str, float]
    oldest_dead_at: dict[str, float]
    last_seen_at: dict[str, float]


@dataclass(frozen=True, slots=True)
class Window:
    """The history from ``since`` until ``until`` (seconds since the epoch), as far as it is not purged.

    Attributes:
        attempts: those that began since then, without late ones; ``endpoint, event_type, number, started_at, duration,
            result, category, code, error_type``; ``policy``, the name that the producer asked for, if any; and where
            a retry was decided on: ``delay``, seconds; ``round_attempt``, the attempt's number in its round as the
            policy counts, without lost ones; ``retry_after``, seconds, where the endpoint asked for a wait.
        deliveries: those that ended since then, and all that are unfinished; ``endpoint, event_type, status, reason,
            accepted_at, finished_at, attempts``.
    """

    since: float
    until: float
    attempts: pd.DataFrame
    deliveries: pd.DataFrame


def measure(connection: Connection, *, now: float, since: float) -> tuple[Totals, Window]:
    """Read both; what one transaction of ``Store.read`` reads is one snapshot."""
    return read_totals(connection, now=now), read_window(connection, now=now, since=since)


def read_totals(connection: Connection, *, now: float) -> Totals:
    """Read the counters and the gauges."""
    names = select(schema.endpoints.c.name).order_by(schema.endpoints.c.name)
    by_status = select(_d.c.endpoint, _d.c.status, func.count()).group_by(_d.c.endpoint, _d.c.status)
    # As `status` counts them: what was cancelled before its first attempt has no category.
    category = func.coalesce(_d.c.category, "unknown")
    is_dead = _d.c.status == "dead_letter"
    dead = (
        select(_d.c.endpoint, category, _d.c.reason, func.count())
        .where(is_dead)
        .group_by(_d.c.endpoint, category, _d.c.reason)
    )
    return Totals(
        taken_at=now,
        endpoints=tuple(connection.execute(names).scalars()),
        counted=_read_counted(connection),
        deliveries={(row[0], row[1]): row[2] for row in connection.execute(by_status)},
        dead_letters={(row[0], row[1], row[2]): row[3] for row in connection.execute(dead)},
        oldest_due_at=_by_endpoint(
            connection,
            select(_d.c.endpoint, func.min(_d.c.next_attempt_at))
            .where(_d.c.available_at.is_not(None))
            .group_by(_d.c.endpoint),
        ),
        oldest_dead_at=_by_endpoint(
            connection,
            select(_d.c.endpoint, func.min(_d.c.finished_at)).where(is_dead).group_by(_d.c.endpoint),
        ),
        last_seen_at=_by_endpoint(
            connection,
            select(_r.c.endpoint, func.max(_r.c.minute))
            .where(_r.c.measure == "attempt", _r.c.result != "lost")
            .group_by(_r.c.endpoint),
        ),
    )


def read_window(connection: Connection, *, now: float, since: float) -> Window:
    """Read the history since a moment, seconds since the epoch."""
    attempts = (
        select(
            *(_d.c.endpoint, _d.c.event_type, _a.c.number, _a.c.started_at, _a.c.duration, _a.c.result),
            *(_a.c.category, _a.c.code, _a.c.error_type, _d.c.policy, _a.c.delay, _a.c.retry_after),
            _round_attempt().label("round_attempt"),
        )
        .join(_d, _d.c.id == _a.c.delivery_id)
        .where(_a.c.started_at >= since, _a.c.late.is_(False))
    )
    deliveries = select(
        *(_d.c.endpoint, _d.c.event_type, _d.c.status, _d.c.reason, _d.c.accepted_at, _d.c.finished_at),
        _d.c.attempts,
    ).where(or_(_d.c.finished_at >= since, _d.c.available_at.is_not(None)))
    return Window(since, now, _frame(connection, attempts), _frame(connection, deliveries))


def _round_attempt() -> Case[int]:
    """Count the attempts of its round up to this one, where a retry was decided on: others need no look-up."""
    before = _a.alias("before")
    number = (
        select(func.count())
        .where(
            *(before.c.delivery_id == _a.c.delivery_id, before.c.round == _a.c.round),
            *(before.c.number <= _a.c.number, before.c.result != "lost", before.c.late.is_(False)),
        )
        .correlate(_a)
        .scalar_subquery()
    )
    return case((_a.c.delay.is_not(None), number))


def _read_counted(connection: Connection) -> tuple[Counted, ...]:
    key = (_r.c.measure, _r.c.endpoint, _r.c.result, _r.c.category, _r.c.code, _r.c.le)
    # Cast: PostgreSQL's sum of integers is no integer.
    query = select(*key, cast(func.sum(_r.c.count), BigInteger), func.sum(_r.c.total)).group_by(*key)
    return tuple(Counted(*row) for row in connection.execute(query))


def _by_endpoint(connection: Connection, query: Select[Any]) -> dict[str, float]:
    return {row[0]: row[1] for row in connection.execute(query) if row[1] is not None}


def _frame(connection: Connection, query: Select[Any]) -> pd.DataFrame:
    names = list(query.selected_columns.keys())
    frame = pd.DataFrame(list(map(tuple, connection.execute(query))), columns=names)
    # Said, and not guessed: of no rows, or of numbers that are all null, pandas would make objects.
    return frame.astype({name: "float64" for name in _FLOATS if name in names})
