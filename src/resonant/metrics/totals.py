"""The counters and gauges of a store, read in one snapshot.

Counters come from the rollups, which only grow; gauges come from the current rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy import BigInteger, case, cast, func, select, union_all

from resonant.store import acceptances, counters, schema
from resonant.store.dead_letter_search import DeadLetters
from resonant.store.gates import read_gates
from resonant.store.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Select

    from resonant.store.gates import Gate

K = TypeVar("K")

_d, _c = schema.deliveries, schema.causes


class Counted(NamedTuple):
    """A counter since the creation of the store, over all minutes and event types; see ``store.counters`` for the measures.

    Attributes:
        le: upper bound of the bucket, in seconds; ``number`` does not include lower buckets.
        number: the count.
        seconds: sum of the measured durations.
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
        endpoints: every endpoint for which an event was ever accepted.
        deliveries: number of deliveries, by endpoint and status.
        dead_letters: number of dead letters, by endpoint, category and reason.
        oldest_due_at: earliest due time of an unfinished delivery, by endpoint.
        oldest_dead_at: when the oldest dead letter was given up, by endpoint; cancelled deliveries, which need no action, are
            excluded.
        last_seen_at: when a worker last claimed deliveries, by endpoint; a purge does not change it.
        gates: the stored gates, by endpoint; a gate that was always normal is not stored.
        held: number of deliveries that are due and held by a gate, by endpoint.
        oldest_round_at: when the oldest round of an unfinished delivery began, keyed by (endpoint, policy requested by the
            producer).
    """

    taken_at: float
    endpoints: tuple[str, ...]
    counted: tuple[Counted, ...]
    deliveries: dict[tuple[str, str], int]
    dead_letters: dict[tuple[str, str, str], int]
    oldest_due_at: dict[str, float]
    oldest_dead_at: dict[str, float]
    last_seen_at: dict[str, float]
    gates: dict[str, Gate] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    oldest_round_at: dict[tuple[str, str | None], float] = field(default_factory=dict)


def read_totals(connection: Connection, *, now: float) -> Totals:
    """Read the counters and the gauges.

    Args:
        connection: an open connection.
        now: seconds since the epoch.
    """
    deliveries: dict[tuple[str, str], int] = {}
    oldest_due_at: dict[str, float] = {}
    oldest_round_at: dict[tuple[str, str | None], float] = {}
    gates = read_gates(connection)
    held: Counter[str] = Counter()
    for endpoint, status, policy, number, due, due_at, began_at in connection.execute(_unfinished(now)):
        deliveries[endpoint, status] = deliveries.get((endpoint, status), 0) + number
        _keep_least(oldest_due_at, endpoint, due_at)
        _keep_least(oldest_round_at, (endpoint, policy), began_at)
        if due and endpoint in gates and gates[endpoint].governs_at(now):
            held[endpoint] += int(due)
    dead_letters, oldest_dead_at = _read_dead(connection)
    for (endpoint, _, _), number in dead_letters.items():
        deliveries[endpoint, "dead_letter"] = deliveries.get((endpoint, "dead_letter"), 0) + number
    _add_delivered(deliveries, acceptances.read_stored(connection))
    return Totals(
        taken_at=now,
        endpoints=acceptances.read_endpoints(connection),
        counted=_read_counted(connection),
        deliveries=deliveries,
        dead_letters=dead_letters,
        oldest_due_at=oldest_due_at,
        oldest_dead_at=oldest_dead_at,
        last_seen_at=_by_endpoint(
            connection,
            select(schema.claims.c.endpoint, schema.claims.c.last_claim_at),
        ),
        gates=gates,
        held=held,
        oldest_round_at=oldest_round_at,
    )


def _add_delivered(deliveries: dict[tuple[str, str], int], stored: Mapping[str, int]) -> None:
    """Add the number of delivered rows: all stored rows less the others.

    Counting them would be slow, since most rows are delivered.
    """
    others: Counter[str] = Counter()
    for (endpoint, _), number in deliveries.items():
        others[endpoint] += number
    for endpoint, number in stored.items():
        if delivered := number - others[endpoint]:
            deliveries[endpoint, "delivered"] = delivered


def _unfinished(now: float) -> Select[Any]:
    """Return one query for all gauges of unfinished deliveries."""
    key = (_d.c.endpoint, _d.c.status, _d.c.policy)
    return (
        select(
            *key,
            func.count(),
            func.sum(case((_d.c.available_at <= now, 1), else_=0)),
            func.min(_d.c.next_attempt_at),
            func.min(_d.c.round_started_at),
        )
        .where(_d.c.available_at.is_not(None))
        .group_by(*key)
    )


def _read_dead(connection: Connection) -> tuple[dict[tuple[str, str, str], int], dict[str, float]]:
    """Count dead letters by endpoint, category and reason, and find the oldest of each endpoint, using their causes."""
    numbers: dict[tuple[str, str, str], int] = {}
    oldest: dict[str, float] = {}
    found = DeadLetters.of(connection, Selection()).count_by_cause(connection)
    key = (_c.c.id, _c.c.endpoint, _c.c.category, _c.c.reason)
    causes = {cause: rest for cause, *rest in connection.execute(select(*key))}
    for each in found:
        endpoint, category, reason = causes[each.cause_id]
        # Consistent with `status`: a delivery cancelled before its first attempt has no category.
        labels = (endpoint, category or "unknown", reason)
        numbers[labels] = numbers.get(labels, 0) + each.number
        if reason != "cancelled":
            _keep_least(oldest, endpoint, each.first_at)
    return numbers, oldest


def _keep_least(moments: dict[K, float], key: K, moment: float | None) -> None:
    if moment is not None:
        moments[key] = min(moment, moments.get(key, moment))


def _read_counted(connection: Connection) -> tuple[Counted, ...]:
    # The totals exclude recent minutes, the acceptances and the tallies, so add them.
    names = [column.name for column in schema.rollup_totals.columns]
    parts = (select(*(table.c[name] for name in names)) for table in (schema.rollup_totals, schema.rollups))
    counts = union_all(*parts, acceptances.as_totals()).subquery()
    *key, number, seconds = counts.c
    # PostgreSQL returns a sum of integers as numeric.
    query = select(*key, cast(func.sum(number), BigInteger), func.sum(seconds)).group_by(*key)
    found = {tuple(row[:-2]): row[-2:] for row in connection.execute(query)}
    for row in counters.read_unfolded_rows(connection):
        labels = tuple(row[name] for name in names[:-2])
        before, seconds_before = found.get(labels, (0, 0.0))
        found[labels] = (before + row["count"], seconds_before + row["total"])
    return tuple(Counted(*labels, *numbers) for labels, numbers in found.items())


def _by_endpoint(connection: Connection, query: Select[Any]) -> dict[str, float]:
    return {row[0]: row[1] for row in connection.execute(query) if row[1] is not None}
