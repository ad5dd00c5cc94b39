"""The receiver's last answer to a delivery, and whether the receiver may have processed the event."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select

from resonant.store import schema
from resonant.store.engine.sql import is_any_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

_d, _a = schema.deliveries, schema.attempts


class ReceiverSide(NamedTuple):
    """The receiver's side of a delivery.

    Attributes:
        answer: the beginning of the receiver's answer to the last attempt, if any.
        maybe_processed: whether the receiver may have processed the event in a failed attempt.
    """

    answer: str | None = None
    maybe_processed: bool = False


def answers(connection: Connection, delivery_ids: Sequence[int]) -> Mapping[int, ReceiverSide]:
    """Return the receiver's side of each of these deliveries."""
    of_them = is_any_of(_a.c.delivery_id, delivery_ids)
    processed = (
        select(_a.c.delivery_id)
        .where(of_them, _a.c.maybe_processed.is_(True), _a.c.result != "delivered")
        .group_by(_a.c.delivery_id)
    )
    # A late attempt of a lost lease can have the number of another attempt, and did not end the delivery.
    last = select(_a.c.delivery_id, func.max(_a.c.excerpt)).join_from(_d, _a, _a.c.delivery_id == _d.c.id)
    last = last.where(of_them, _a.c.number == _d.c.attempts, _a.c.late.is_(False)).group_by(_a.c.delivery_id)
    found: defaultdict[int, ReceiverSide] = defaultdict(ReceiverSide)
    for delivery_id in connection.execute(processed).scalars():
        found[delivery_id] = ReceiverSide(maybe_processed=True)
    for delivery_id, excerpt in connection.execute(last):
        found[delivery_id] = found[delivery_id]._replace(answer=excerpt)
    return found
