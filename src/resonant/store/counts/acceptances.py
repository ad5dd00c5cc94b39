"""The ledgers of accepted and purged deliveries, and the rows that producers insert for what they accept.

A producer's transaction may stay open for minutes. If it updated its endpoint's ledger row, every other producer for
that endpoint would wait for its commit. So producers insert separate rows, and readers add these rows to the ledger.
``fold`` moves them in one transaction, so every snapshot shows the same sums. Dispatchers and compactions call it.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    Connection,
    Insert,
    Subquery,
    cast,
    delete,
    func,
    literal,
    select,
    true,
    union,
    union_all,
)

from resonant.store import schema
from resonant.store.engine.sql import insert_into, insert_row
from resonant.store.engine.wakeup import notify

_t = schema.acceptances
_ledgers = schema.ledgers


class Ledger(NamedTuple):
    """The numbers of deliveries to one endpoint that were ever accepted, and removed by purges."""

    accepted: int = 0
    purged: int = 0


def add(connection: Connection, by_endpoint: Mapping[str, int]) -> None:
    """Record the numbers of accepted deliveries, in the transaction that accepts them."""
    for endpoint, count in by_endpoint.items():
        insert_row(connection, _t, {"endpoint": endpoint, "count": count})


def adding(added: CTE) -> CTE:
    """Return the part of a statement on PostgreSQL that records the numbers of the deliveries that it inserts."""
    return _adding(added).cte("counted")


def adding_and_waking(added: CTE) -> CTE:
    """Return the same part, which also wakes idle dispatchers on commit.

    Another statement would slow a producer down more than the notification itself.
    """
    return _adding(added).returning(notify(_t.c.endpoint)).cte("counted")


def _adding(added: CTE) -> Insert:
    sums = select(added.c.endpoint, func.count()).group_by(added.c.endpoint)
    return _t.insert().from_select(["endpoint", "count"], sums)


def is_any(connection: Connection) -> bool:
    """Return whether there are rows to fold."""
    return connection.execute(select(_t.c.id).limit(1)).first() is not None


def fold(connection: Connection, *, limit: int) -> int:
    """Move up to ``limit`` rows into the ledgers; return their number. Rows locked by another fold are skipped."""
    picked = select(_t.c.id).order_by(_t.c.id).limit(limit).with_for_update(skip_locked=True).cte("picked")
    taking = delete(_t).where(_t.c.id.in_(select(picked.c.id))).returning(_t.c.endpoint, _t.c["count"])
    taken = connection.execute(taking).all()
    accepted: Counter[str] = Counter()
    for endpoint, count in taken:
        accepted[endpoint] += count
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


def endpoint_names(endpoint: str | None = None) -> Subquery:
    """Return the ``name`` of each endpoint, or of this one, that was added or for which an event was accepted."""
    names = (_ledgers.c.name, _t.c.endpoint)
    return union(
        *(
            select(each.label("name")).where(true() if endpoint is None else each == endpoint)
            for each in names
        )
    ).subquery()


def read_ledgers(connection: Connection, endpoint: str | None = None) -> dict[str, Ledger]:
    """Return the ledgers by endpoint, sorted: of the endpoints that were added, or for which an event was accepted."""
    added = select(_t.c.endpoint, _t.c["count"], literal(0, BigInteger))
    each = union_all(select(_ledgers), added).subquery()
    name, *sums = each.c
    # PostgreSQL returns a sum of integers as numeric.
    query = select(name, *(cast(func.sum(column), BigInteger) for column in sums)).group_by(name)
    if endpoint is not None:
        query = query.where(name == endpoint)
    return {row[0]: Ledger(*row[1:]) for row in connection.execute(query.order_by(name))}
