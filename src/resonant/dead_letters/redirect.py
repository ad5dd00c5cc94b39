"""Redirect: new deliveries of the events of dead letters to another endpoint. The dead letters stay, with a note."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from resonant.events import Lease
from resonant.store import schema
from resonant.store.counts import acceptances
from resonant.store.engine.sql import insert_missing, is_any_of
from resonant.store.queue.leases import leases_of
from resonant.store.queue.locked_rows import change_all

_d = schema.deliveries
_COPIED = ("event_key", "event_type", "policy", "max_attempts")


def is_new_to(endpoint: str) -> ColumnElement[bool]:
    """Return the condition that an endpoint has no delivery of the same event."""
    other = _d.alias("other")
    return (
        ~select(other.c.id).where(other.c.event_key == _d.c.event_key, other.c.endpoint == endpoint).exists()
    )


def send_elsewhere(
    connection: Connection,
    delivery_ids: Collection[int],
    endpoint: str,
    *,
    owner: str,
    now: float,
    lease_seconds: float,
) -> list[Lease]:
    """Accept deliveries of the events of these dead letters to another endpoint, and lease them; note it in the dead letters.

    An event that the endpoint has received meanwhile is skipped. The new deliveries keep the producer's policy and limit.

    Args:
        connection: in a write transaction that has locked the dead letters.
        delivery_ids: the dead letters, in the order in which to send their events.
        endpoint: the other endpoint.
        lease_seconds: the duration of the leases.
    """
    columns = (_d.c.id, *(_d.c[name] for name in _COPIED))
    found = connection.execute(select(*columns).where(is_any_of(_d.c.id, delivery_ids)))
    by_id = {row.id: row for row in found}
    by_event: dict[int, Any] = {}
    for each in delivery_ids:
        by_event.setdefault(by_id[each].event_key, by_id[each])
    place = {key: number for number, key in enumerate(by_event)}
    common = {
        "endpoint": endpoint,
        "status": "pending",
        "accepted_at": now,
        "round_started_at": now,
        "next_attempt_at": now,
        "available_at": now + lease_seconds,
        "lease_owner": owner,
        "lease_token": 1,
    }
    # In the order of the keys, so that two producers of the same events cannot deadlock.
    new = [{name: getattr(by_event[key], name) for name in _COPIED} | common for key in sorted(by_event)]
    accepted = insert_missing(connection, _d, new, *_d.c)
    if accepted:
        acceptances.add(connection, {endpoint: len(accepted)})
    change_all(connection, delivery_ids, {"replayed_to": endpoint})
    return leases_of(connection, sorted(accepted, key=lambda row: place[row.event_key]))
