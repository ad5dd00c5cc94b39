"""The subscriptions of a store, and the router that all of its producers compile from them.

Each change draws a new version at random, in its transaction. So a version names one set of subscriptions, in every store and
after every rollback, and a process compiles its router once for each version.
"""

import json
import secrets
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select

from resonant.errors import InvalidSubscription, StoreError
from resonant.events import ENDPOINT_NAME, Event
from resonant.input_lines import parse_event
from resonant.routing import MAX_SUBSCRIPTIONS, Router, Subscription, new_subscription
from resonant.store import schema
from resonant.store.audit import AuditAction, record_change
from resonant.store.engine.sql import insert_into, insert_row, is_any_of

_ONLY_ROW = 1
_VERSION_BITS = 63
# A process may use several stores.
_KEPT_ROUTERS = 8

_s = schema.subscriptions
_routers: dict[int, Router] = {}
_NOTHING = Router(())


def current_router(connection: Connection) -> Router:
    """Return the router of all subscriptions.

    Raises:
        StoreError: one of them is damaged.
    """
    version = _read_version(connection)
    if version is None:
        return _NOTHING
    if (known := _routers.get(version)) is not None:
        return known
    router = Router(read_subscriptions(connection))
    # At the isolation level READ COMMITTED, these may be subscriptions of a newer version.
    if _read_version(connection) == version:
        _routers[version] = router
        for older in [*_routers][:-_KEPT_ROUTERS]:
            _routers.pop(older, None)
    return router


class Trial(NamedTuple):
    """An event that is not stored, the endpoints that would get it, and what ``Router.explain`` says of each subscription."""

    event: Event
    endpoints: tuple[str, ...]
    explained: list[tuple[Subscription, str | None]]


def try_event(connection: Connection, text: str, *, default_type: str | None, max_bytes: int) -> Trial:
    """Return what would happen to an event; ``text`` is as for ``parse_event``.

    Raises:
        InvalidEvent: the text is not a valid event.
        StoreError: a subscription is damaged.
    """
    event = parse_event(text, default_type=default_type, max_bytes=max_bytes, may_be_own=True)
    router = current_router(connection)
    return Trial(event, router.endpoints(event), router.explain(event))


def _read_version(connection: Connection) -> int | None:
    # A compiled statement would take longer than the rest of the routing of an event.
    statement = f"SELECT version FROM {schema.routing.name}"  # noqa: S608 - a constant
    return connection.exec_driver_sql(statement).scalar()


def read_subscriptions(connection: Connection, endpoint: str | None = None) -> list[Subscription]:
    """Return all subscriptions, or those of one endpoint, sorted by endpoint and age.

    Raises:
        StoreError: one of them is damaged.
    """
    return _read(connection, *([] if endpoint is None else [_s.c.endpoint == endpoint]))


def add_subscription(
    connection: Connection, subscription: Subscription, *, who: str, now: float
) -> tuple[Subscription, bool]:
    """Store a subscription, and return it and True; return an older one and False if that says the same.

    Args:
        connection: in a write transaction.
        subscription: as ``new_subscription`` returns it.

    Raises:
        InvalidSubscription: there are too many.
    """
    _draw_version(connection)
    for each in read_subscriptions(connection, subscription.endpoint):
        if each.says_the_same(subscription):
            return each, False
    count = connection.execute(select(func.count()).select_from(_s)).scalar_one()
    if count >= MAX_SUBSCRIPTIONS:
        raise InvalidSubscription(
            f"the store has {count:,} subscriptions, the limit is {MAX_SUBSCRIPTIONS:,}: "
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
    return [_stored(*row) for row in connection.execute(query)]


def _stored(id_: str, endpoint: str, types: str, source: str | None, filters: str) -> Subscription:
    # Checked: somebody's SQL, or a program of another version, may have written the row.
    try:
        terms = {"types": json.loads(types), "source": source, "filters": json.loads(filters)}
        found = replace(new_subscription(endpoint, terms), id=id_)
    except (InvalidSubscription, ValueError, TypeError, RecursionError) as error:
        why = str(error)
    else:
        if ENDPOINT_NAME.fullmatch(endpoint):
            return found
        why = "its endpoint has no valid name"
    raise StoreError(
        f"the stored subscription {id_} is damaged ({why}): delete its row of resonant_subscriptions, and add it again"
    )


def _draw_version(connection: Connection) -> None:
    """Change the version, and let other changes wait until this transaction ends."""
    row = {"id": _ONLY_ROW, "version": secrets.randbits(_VERSION_BITS)}
    new = insert_into(connection.dialect.name, schema.routing).values(row)
    connection.execute(
        new.on_conflict_do_update(index_elements=["id"], set_={"version": new.excluded.version})
    )


def _audit(
    connection: Connection, action: AuditAction, subscription: Subscription, *, who: str, now: float
) -> None:
    selection = {"endpoint": subscription.endpoint, "id": subscription.id, **subscription.terms}
    record_change(connection, at=now, who=who, action=action, selection=selection)
