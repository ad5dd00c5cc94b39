"""Lock deliveries, check which leases on them are still held, and change them."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, select, update

from resonant.events import Lease, LeaseKey, Reason
from resonant.store import schema
from resonant.store.engine.sql import is_any_of, is_any_of_given, update_all

_d = schema.deliveries
_LOCKED = f"""SELECT json_group_array(json_array(id, lease_token, lease_owner, attempts)) FROM {_d.name}
    WHERE id IN (SELECT value FROM json_each(?))"""  # noqa: S608 - our own names


class LockedRow(NamedTuple):
    """What a worker checks of a delivery before it changes it."""

    id: int
    lease_token: int
    lease_owner: str | None
    attempts: int


def lock(
    connection: Connection, delivery_ids: Iterable[int], *, skip_locked: bool = False
) -> dict[int, LockedRow]:
    """Lock these deliveries in the order of their ids, so that two workers cannot deadlock; return those that exist, by id.

    With ``skip_locked``, leave out those that other transactions have locked.
    """
    ids = list(delivery_ids)
    if connection.dialect.name == "sqlite":
        # Text and one value take less CPU than a compiled statement and a row for each delivery.
        rows = json.loads(connection.exec_driver_sql(_LOCKED, (json.dumps(ids),)).scalar_one())
    else:
        rows = connection.execute(_locking(skip_locked), {"ids": ids}).all()
    return {row[0]: LockedRow(*row) for row in rows}


@cache
def _locking(skip_locked: bool) -> Select[int, int, str | None, int]:
    query = select(_d.c.id, _d.c.lease_token, _d.c.lease_owner, _d.c.attempts).order_by(_d.c.id)
    # Not FOR UPDATE, so that other transactions can add attempts to a locked delivery.
    query = query.where(is_any_of_given(_d.c.id, "ids"))
    return query.with_for_update(key_share=True, skip_locked=skip_locked)


def locked_by_others(connection: Connection, missing: Collection[int]) -> set[int]:
    """Return those of the deliveries left out by ``lock`` with ``skip_locked`` that exist."""
    if not missing:
        return set()
    return set(connection.execute(select(_d.c.id).where(is_any_of(_d.c.id, missing))).scalars())


def still_held(connection: Connection, leases: Sequence[Lease]) -> set[LeaseKey]:
    """Lock the deliveries; return the leases that are still held.

    ``leases`` may contain several leases of one delivery, since a run can claim a lost delivery again; at most one is held.
    """
    return held_in(lock(connection, [lease.delivery_id for lease in leases]), leases)


def held_in(rows: Mapping[int, Any], leases: Iterable[Lease]) -> set[LeaseKey]:
    """Return the leases that are still held, according to the rows that ``lock`` returned."""
    return {lease.key for lease in leases if is_held(rows, lease)}


def is_held(rows: Mapping[int, Any], lease: Lease) -> bool:
    """Return whether a lease is still held, according to the rows that ``lock`` returned.

    Two workers have the same token if a failover to a standby lost the claim of the first. So the owner must match too.
    """
    row = rows.get(lease.delivery_id)
    return row is not None and (row.lease_owner, row.lease_token) == (lease.owner, lease.token)


def held_by(
    connection: Connection, owner: str, *conditions: ColumnElement[bool], skip_locked: bool = False
) -> list[int]:
    """Lock the deliveries that an owner holds and that meet the conditions, in the order of ``lock``; return their ids.

    With ``skip_locked``, leave out those that other transactions have locked.
    """
    query = select(_d.c.id).where(_d.c.lease_owner == owner, *conditions).order_by(_d.c.id)
    query = query.with_for_update(key_share=True, skip_locked=skip_locked)
    return list(connection.execute(query).scalars())


def change_all(connection: Connection, delivery_ids: Collection[int], changes: dict[str, Any]) -> None:
    """Apply the same changes to deliveries already locked by this transaction."""
    if delivery_ids:
        connection.execute(update(_d).where(is_any_of(_d.c.id, delivery_ids)).values(changes))


def change_each(connection: Connection, changes: list[dict[str, object]]) -> None:
    """Apply different changes to deliveries already locked by this transaction; ``id`` names the delivery."""
    by_names: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for change in changes:
        by_names.setdefault(tuple(change), []).append(change)
    for names, rows in by_names.items():
        if connection.dialect.name == "sqlite":
            # Takes a fifth of the time of a compiled statement.
            assignments = ", ".join(f"{name} = :{name}" for name in names if name != "id")
            connection.exec_driver_sql(f"UPDATE {_d.name} SET {assignments} WHERE id = :id", rows)  # noqa: S608 - our own names
        else:
            update_all(connection, _d, rows)


def given_up(reason: Reason, now: float) -> dict[str, object]:
    """Return the changes that make an unfinished delivery a dead letter."""
    return {
        "status": "dead_letter",
        "reason": reason,
        "finished_at": now,
        "next_attempt_at": None,
        "available_at": None,
        "lease_owner": None,
    }
