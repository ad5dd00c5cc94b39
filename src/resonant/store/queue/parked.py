"""Parked deliveries, which an operator may have sent before their own backoff ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, literal, select, tuple_, update

from resonant.store import schema
from resonant.store.engine.sql import is_any_of
from resonant.store.engine.wakeup import announce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

_d = schema.deliveries


def make_parked_due(
    connection: Connection,
    endpoint: str,
    *,
    limit: int,
    now: float,
    after: Row[Any, Any] | None = None,
) -> Sequence[Row[Any, Any]]:
    """Make up to ``limit`` parked deliveries of an endpoint due now, except locked rows; return their due times and ids.

    A failure before the end of a delivery's own backoff is not charged.

    Args:
        connection: in a write transaction.
        endpoint: the endpoint's name.
        limit: the maximum number.
        now: seconds since the epoch.
        after: the last one of an earlier call, to continue after it.
    """
    key = (_d.c.available_at, _d.c.id)
    query = select(*key).where(_d.c.endpoint == endpoint, _d.c.available_at > now, _d.c.lease_owner.is_(None))
    if after is not None:
        position = (literal(value, of.type) for value, of in zip(after, key, strict=True))
        query = query.where(tuple_(*key) > tuple_(*position))
    query = query.order_by(*key).limit(limit).with_for_update(skip_locked=True, key_share=True)
    picked = connection.execute(query).all()
    if picked:
        own_end = func.coalesce(_d.c.backoff_until, _d.c.next_attempt_at)
        made_due = {"backoff_until": own_end, "next_attempt_at": now, "available_at": now}
        is_picked = is_any_of(_d.c.id, [row.id for row in picked])
        connection.execute(update(_d).where(is_picked).values(made_due))
        announce(connection)
    return picked
