"""The current state of given deliveries, for a command that waits for its own deliveries."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, select

from resonant.store import schema
from resonant.store.engine.sql import is_any_of
from resonant.store.shared.gates import holds_for_long, read_gates

_d = schema.deliveries


class Standing(NamedTuple):
    """The current state of a delivery.

    Attributes:
        id: the store's key.
        status: the delivery's status.
        reason: why it was given up; None if it was not.
        round_attempts: attempts in the current round.
        accepted_at: when it was accepted, seconds since the epoch.
        finished_at: when it was delivered or given up.
        parked: whether it has no lease and is not due within the given wait.
        held: whether the endpoint's gate holds it for a long time, or the endpoint is unavailable.
    """

    id: int
    status: str
    reason: str | None
    round_attempts: int
    accepted_at: float
    finished_at: float | None
    parked: bool
    held: bool


def standing(
    connection: Connection,
    delivery_ids: Collection[int],
    *,
    now: float,
    wait: float = 0.0,
    unavailable: Collection[str] = (),
) -> list[Standing]:
    """Return the state of each of these deliveries; purged ones are omitted.

    Args:
        delivery_ids: the store's keys.
        wait: a delivery counts as parked if it is due later than this many seconds from now.
        unavailable: endpoints that cannot be opened.
    """
    is_parked = and_(_d.c.lease_owner.is_(None), _d.c.available_at > now + wait)
    waits = and_(_d.c.lease_owner.is_(None), _d.c.available_at.is_not(None))
    gates = read_gates(connection)
    held_endpoints = [name for name, gate in gates.items() if holds_for_long(gate, gates.at)]
    is_held = and_(waits, _d.c.endpoint.in_([*held_endpoints, *unavailable]))
    columns = (_d.c.id, _d.c.status, _d.c.reason, _d.c.round_attempts, _d.c.accepted_at, _d.c.finished_at)
    query = select(*columns, is_parked, is_held).where(is_any_of(_d.c.id, delivery_ids))
    rows: Iterable[Any] = connection.execute(query)
    return [Standing._make((*row[:6], bool(row[6]), bool(row[7]))) for row in rows]
