"""The subscriptions of a store, and the router that all of its producers compile from them.

Each change draws a new version at random, in its transaction. So a version names one set of subscriptions, in every store and
after every rollback, and a process compiles its router once for each version.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from resonant.errors import InvalidSubscription
from resonant.routing import MAX_SUBSCRIPTIONS, Router, Subscription
from resonant.store import schema
from resonant.store.audit import begin_audit, end_audit
from resonant.store.engine.sql import insert_into, insert_row, is_any_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Connection

    from resonant.store.audit import Action

_ONLY_ROW = 1
_VERSION_BITS = 63
# A process may use several stores.
_KEPT_ROUTERS = 8

_s = schema.subscriptions
_routers: dict[int, Router] = {}
_NOTHING = Router(())


def current_router(connection: Connection) -> Router:
    """Return the router of all subscriptions."""
    version = connection.execute(select(schema.routing.c.version)).scalar()
    if version is None:
        return _NOTHING
    router = _routers.get(version)
    if router is None:
        router = _routers[version] = Router(read_subscriptions(connection))
        for older in [*_routers][:-_KEPT_ROUTERS]:
            _routers.pop(older, None)
    return router


def read_subscriptions(connection: Connection, endpoint: str | None = None) -> list[Subscription]:
    """Return all subscriptions, or those of one endpoint, sorted by endpoint and age."""
    return _read(connection, *([] if endpoint is None else [_s.c.endpoint == endpoint]))


def add_subscription(
    connection: Connection, subscription: Subscription, *, who: str, now: float
) -> tuple[Subscription, bool]:
    """Store a subscription, and return it and True; return an older one and False if that says the same.

    Args:
        connection: in a write transaction.
        subscription: as ``new_subscription`` returns it.
        who: for the audit.
        now: seconds since the epoch.

    Raises:
        InvalidSubscription: there are too many.
    """
    _draw_version(connection)
    others = read_subscriptions(connection)
    for each in others:
        if each.says_the_same(subscription):
            return each, False
    if len(others) >= MAX_SUBSCRIPTIONS:
        raise InvalidSubscription(
            f"the store has {len(others):,} subscriptions, the limit is {MAX_SUBSCRIPTIONS:,}: "
            "remove some with `resonant subscription remove`"
        )
    row = {
        "id": subscription.id,
        "endpoint": subscription.endpoint,
        "types": json.dumps(subscription.types),
        "source": subscription.source,
        "filters": json.dumps(subscription.filters),
        "created_at": now,
    }
    insert_row(connection, _s, row)
    _audit(connection, "subscription add", subscription, who=who, now=now)
    return subscription, True


def remove_subscriptions(
    connection: Connection, ids: Collection[str], *, who: str, now: float
) -> list[Subscription]:
    """Remove subscriptions, and return those that were stored. Events stored before keep their deliveries.

    Args:
        connection: in a write transaction.
        ids: of subscriptions.
        who: for the audit.
        now: seconds since the epoch.
    """
    return _remove(connection, is_any_of(_s.c.id, ids), who=who, now=now)


def remove_subscriptions_of(
    connection: Connection, endpoint: str, *, who: str, now: float
) -> list[Subscription]:
    """Remove all subscriptions of an endpoint, like ``remove_subscriptions``."""
    return _remove(connection, _s.c.endpoint == endpoint, who=who, now=now)


def _remove(
    connection: Connection, condition: ColumnElement[bool], *, who: str, now: float
) -> list[Subscription]:
    if not _read(connection, condition):
        return []
    _draw_version(connection)
    found = _read(connection, condition)
    connection.execute(_s.delete().where(condition))
    for each in found:
        _audit(connection, "subscription remove", each, who=who, now=now)
    return found


def _read(connection: Connection, *conditions: ColumnElement[bool]) -> list[Subscription]:
    columns = (_s.c.id, _s.c.endpoint, _s.c.types, _s.c.source, _s.c.filters)
    query = select(*columns).where(*conditions).order_by(_s.c.endpoint, _s.c.created_at, _s.c.id)
    return [
        Subscription(id_, endpoint, tuple(json.loads(types)), source, tuple(json.loads(filters)))
        for id_, endpoint, types, source, filters in connection.execute(query)
    ]


def _draw_version(connection: Connection) -> None:
    """Change the version, and let other changes wait until this transaction ends."""
    row = {"id": _ONLY_ROW, "version": secrets.randbits(_VERSION_BITS)}
    new = insert_into(connection.dialect.name, schema.routing).values(row)
    connection.execute(
        new.on_conflict_do_update(index_elements=["id"], set_={"version": new.excluded.version})
    )


def _audit(
    connection: Connection, action: Action, subscription: Subscription, *, who: str, now: float
) -> None:
    selection: dict[str, Any] = {
        "endpoint": subscription.endpoint,
        "id": subscription.id,
        **subscription.terms,
    }
    end_audit(
        connection, begin_audit(connection, at=now, who=who, action=action, selection=selection), now=now
    )
