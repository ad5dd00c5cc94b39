"""The current state of given deliveries, and why parked ones wait, for a command that reports on its own deliveries."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from resonant.store import schema
from resonant.store.engine.sql import is_any_of
from resonant.store.shared.gates import are_of_types, holds_for_long, read_gates

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
    of_types = are_of_types({name: gate.failing_for_long(gates.at) for name, gate in gates.items()})
    is_held = and_(waits, or_(_d.c.endpoint.in_([*held_endpoints, *unavailable]), of_types))
    columns = (_d.c.id, _d.c.status, _d.c.reason, _d.c.round_attempts, _d.c.accepted_at, _d.c.finished_at)
    query = select(*columns, is_parked, is_held).where(is_any_of(_d.c.id, delivery_ids))
    rows: Iterable[Any] = connection.execute(query)
    return [Standing._make((*row[:6], bool(row[6]), bool(row[7]))) for row in rows]


class Parked(NamedTuple):
    """Parked deliveries of one endpoint with the same last failure.

    Attributes:
        endpoint: the endpoint's name.
        code: the classifier's code of the last failure; None before the first attempt.
        number: the number of deliveries.
        due_at: the earliest due time, seconds since the epoch.
    """

    endpoint: str
    code: str | None
    number: int
    due_at: float


def parked_deliveries(connection: Connection, delivery_ids: Collection[int]) -> list[Parked]:
    """Group those of these deliveries that wait without a lease by endpoint and last failure."""
    return _parked(connection, is_any_of(_d.c.id, delivery_ids))


def parked_at(connection: Connection, endpoint: str | None, *, now: float) -> list[Parked]:
    """Group the parked deliveries of an endpoint, or of all if it is None, by endpoint and last failure."""
    of_endpoint = [] if endpoint is None else [_d.c.endpoint == endpoint]
    return _parked(connection, _d.c.available_at > now, *of_endpoint)


def _parked(connection: Connection, *conditions: ColumnElement[bool]) -> list[Parked]:
    columns = (_d.c.endpoint, _d.c.code)
    waits = and_(_d.c.lease_owner.is_(None), _d.c.available_at.is_not(None))
    query = select(*columns, func.count(), func.min(_d.c.available_at)).where(waits, *conditions)
    return [Parked._make(row) for row in connection.execute(query.group_by(*columns))]
