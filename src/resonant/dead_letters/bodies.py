"""Removes the bodies of events some time after all their deliveries were delivered. The rest of the events stays."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select, update

from resonant.store import Store, schema
from resonant.store.engine.sql import is_any_of
from resonant.store.views.dead_letters import Position, earliest

# Few, since each body may be large, and other writers wait meanwhile.
_BATCH = 100
_PAUSE_SECONDS = 0.004
_d, _e = schema.deliveries, schema.events


async def remove_bodies(store: Store, *, delivered_before: float) -> int:
    """Remove the bodies of events whose deliveries were all delivered by this time; return their number.

    Args:
        store: open.
        delivered_before: seconds since the epoch.
    """
    removed, last = 0, None
    while found := await store.read(_find, delivered_before, after=last):
        last = Position(*found[-1][:2])
        keys = list(dict.fromkeys(key for *_, key in found))
        removed += await store.write(_remove, keys, delivered_before)
        await asyncio.sleep(_PAUSE_SECONDS)
    return removed


def count_bodies(connection: Connection, *, delivered_before: float) -> int:
    """Return how many bodies ``remove_bodies`` would remove now."""
    query = select(func.count(_d.c.event_key.distinct())).join_from(_d, _e, _e.c.key == _d.c.event_key)
    return int(connection.execute(query.where(*_conditions(delivered_before))).scalar_one())


def _find(
    connection: Connection, delivered_before: float, *, after: Position | None
) -> Sequence[tuple[float, int, int]]:
    query: Select[float, int, int] = earliest(_conditions(delivered_before), limit=_BATCH, after=after)
    query = query.join(_e, _e.c.key == _d.c.event_key).add_columns(_d.c.event_key)
    return [(at, id_, key) for at, id_, key in connection.execute(query)]


def _remove(connection: Connection, keys: list[int], delivered_before: float) -> int:
    # An event that a producer has locked gets a new delivery.
    query = select(_e.c.key).where(is_any_of(_e.c.key, keys)).order_by(_e.c.key)
    locked = connection.execute(query.with_for_update(skip_locked=True)).scalars().all()
    still = select(_d.c.event_key).join(_e, _e.c.key == _d.c.event_key).where(is_any_of(_e.c.key, locked))
    chosen = connection.execute(still.where(*_conditions(delivered_before)).distinct()).scalars().all()
    connection.execute(update(_e).where(is_any_of(_e.c.key, chosen)).values(body=b"", form="removed"))
    return len(chosen)


def _conditions(delivered_before: float) -> list[ColumnElement[bool]]:
    """Return the conditions on deliveries, joined with their events."""
    other = _d.alias("other")
    is_needed = or_(other.c.status != "delivered", other.c.finished_at > delivered_before)
    return [
        schema.is_delivered,
        _d.c.finished_at <= delivered_before,
        func.coalesce(_e.c.form, "").not_in(["absent", "removed", "erased"]),
        ~select(other.c.id).where(other.c.event_key == _d.c.event_key, is_needed).exists(),
    ]
