"""Counts of accepted events: rows that producers insert, folded later into the ledgers and rollups.

A producer's transaction may stay open for minutes. If it updated its endpoint's ledger row, every other producer for
that endpoint would wait for its commit. So producers insert separate rows, and readers add these rows to the ledger
and to the counter of accepted events. ``fold`` moves them in one transaction, so every snapshot shows the same sums.
Dispatchers and compactions call it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from functools import cache
from typing import TYPE_CHECKING, Literal

from sqlalchemy import BigInteger, Double, Text, cast, delete, func, literal, select, union

from resonant.store import schema
from resonant.store.counts.counters import Tally, add_to, is_on
from resonant.store.engine.sql import insert_into
from resonant.store.engine.wakeup import notify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Connection, Insert, Select

_t = schema.acceptances
_ledgers = schema.ledgers
_FOLDED = (_t.c.endpoint, _t.c.event_type, _t.c.accepted_at, _t.c["count"], _t.c.counted)
_MEASURE: Literal["accepted"] = "accepted"


def add(
    connection: Connection, endpoint: str, by_type: Mapping[str, int], *, now: float, wake: bool = True
) -> None:
    """Record the number of accepted events of each type, in the transaction that accepts them.

    Args:
        connection: in that transaction.
        endpoint: the endpoint's name.
        by_type: the numbers.
        now: seconds since the epoch.
        wake: wake idle dispatchers on commit.
    """
    counted = is_on(connection)
    rows = [
        {"endpoint": endpoint, "event_type": each, "accepted_at": now, "count": count, "counted": counted}
        for each, count in by_type.items()
    ]
    connection.execute(_adding(notifies=wake and connection.dialect.name == "postgresql"), rows)


@cache
def _adding(*, notifies: bool) -> Insert:
    # In the same statement: another one would slow a producer down more than the notification itself.
    return _t.insert().returning(notify(_t.c.endpoint)) if notifies else _t.insert().inline()


def is_any(connection: Connection) -> bool:
    """Return whether there are rows to fold."""
    return connection.execute(select(_t.c.id).limit(1)).first() is not None


def fold(connection: Connection, *, limit: int) -> int:
    """Move up to ``limit`` rows into the ledgers and the rollups; return their number.

    Rows locked by another fold are skipped.
    """
    picked = select(_t.c.id).order_by(_t.c.id).limit(limit).with_for_update(skip_locked=True).cte("picked")
    taken = connection.execute(delete(_t).where(_t.c.id.in_(select(picked.c.id))).returning(*_FOLDED)).all()
    accepted: Counter[str] = Counter()
    tallies: defaultdict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    for endpoint, event_type, accepted_at, count, counted in taken:
        accepted[endpoint] += count
        if counted:
            tallies[int(accepted_at // 60)][endpoint, event_type] += count
    for minute, counts in sorted(tallies.items()):
        tally = Tally(minute * 60)
        for (endpoint, event_type), count in counts.items():
            tally.add(_MEASURE, endpoint, event_type, "accepted", count=count)
        # Not `write`: the producer's settings decide whether these events are counted.
        add_to(schema.rollups, connection, tally.rows())
    add_to_ledger(connection, "accepted", accepted)
    return len(taken)


def add_to_ledger(
    connection: Connection, name: Literal["accepted", "purged"], by_endpoint: Mapping[str, int]
) -> None:
    """Add counts to one of the two ledgers of each endpoint, in lock order."""
    if not by_endpoint:
        return
    insert = insert_into(connection.dialect.name, _ledgers)
    adding = insert.on_conflict_do_update(
        index_elements=["name"], set_={name: _ledgers.c[name] + insert.excluded[name]}
    )
    connection.execute(
        adding, [{"name": endpoint, name: count} for endpoint, count in sorted(by_endpoint.items())]
    )


def read_ledgers(connection: Connection, endpoint: str | None = None) -> tuple[int, int]:
    """Return the numbers of accepted and purged deliveries of one endpoint, or of all endpoints."""
    of_ledger = [] if endpoint is None else [_ledgers.c.name == endpoint]
    of_rows = [] if endpoint is None else [_t.c.endpoint == endpoint]
    accepted, purged = connection.execute(
        select(_total(_ledgers.c.accepted), _total(_ledgers.c.purged)).where(*of_ledger)
    ).one()
    added = connection.execute(select(_total(_t.c["count"])).where(*of_rows)).scalar_one()
    return accepted + added, purged


def read_stored(connection: Connection) -> dict[str, int]:
    """Return the number of stored deliveries of each endpoint, from the ledgers: accepted less purged."""
    stored = Counter[str]()
    for name, accepted, purged in connection.execute(select(_ledgers)):
        stored[name] += accepted - purged
    rows = select(_t.c.endpoint, _total(_t.c["count"])).group_by(_t.c.endpoint)
    for name, added in connection.execute(rows):
        stored[name] += added
    return stored


def read_endpoints(connection: Connection) -> tuple[str, ...]:
    """Return the sorted names of the endpoints with a ledger: those that were added, or for which an event was accepted."""
    names = union(select(_ledgers.c.name), select(_t.c.endpoint))
    return tuple(sorted(connection.execute(names).scalars()))


def as_totals() -> Select[tuple[str, str, str, str, str, float, int, float]]:
    """Select the counts that are not in the rollups yet, with the columns of ``resonant_rollup_totals``."""
    empty = literal("", Text)
    return (
        select(
            *(literal(_MEASURE, Text), _t.c.endpoint, literal("accepted", Text), empty, empty),
            *(literal(math.inf, Double), _total(_t.c["count"]), literal(0.0, Double)),
        )
        .where(_t.c.counted)
        .group_by(_t.c.endpoint)
    )


def _total(column: ColumnElement[int]) -> ColumnElement[int]:
    # PostgreSQL returns a sum of integers as numeric.
    return cast(func.coalesce(func.sum(column), 0), BigInteger)
