"""Removes the bodies of events some time after all their deliveries were delivered. The rest of the events stays."""

from functools import partial

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select, true, update

from resonant.dead_letters.walking import Batches, KeyRange, each_range
from resonant.store import Store, schema
from resonant.store.engine.sql import is_any_of

_MOST_AHEAD_SECONDS = 86_400.0
_d, _e = schema.deliveries, schema.events


async def remove_bodies(store: Store, *, delivered_before: float) -> int:
    """Remove the bodies of events whose deliveries were all delivered by this time; return their number.

    Args:
        store: open.
        delivered_before: seconds since the epoch.
    """
    removed, batches = 0, Batches(store)
    async for keys in each_range(store, partial(_find, delivered_before)):
        async for number in batches.write(_remove, keys, delivered_before):
            removed += number
    return removed


async def count_bodies(store: Store, *, delivered_before: float) -> int:
    """Return how many bodies ``remove_bodies`` would remove now."""
    return sum([len(keys) async for keys in each_range(store, partial(_find, delivered_before))])


def _find(delivered_before: float, connection: Connection, keys: KeyRange) -> list[int]:
    # The range of the deliveries, too: otherwise PostgreSQL may read all of them.
    query = _removable(delivered_before, keys.has(_d.c.event_key)).where(keys.has(_e.c.key))
    return list(connection.execute(query).scalars())


def _remove(connection: Connection, keys: list[int], delivered_before: float) -> int:
    # An event that a producer has locked gets a new delivery.
    query = select(_e.c.key).where(is_any_of(_e.c.key, keys)).order_by(_e.c.key)
    locked = connection.execute(query.with_for_update(skip_locked=True)).scalars().all()
    still = _removable(delivered_before).where(is_any_of(_e.c.key, locked))
    chosen = connection.execute(still).scalars().all()
    connection.execute(update(_e).where(is_any_of(_e.c.key, chosen)).values(body=b"", form="removed"))
    return len(chosen)


def _removable(delivered_before: float, among: ColumnElement[bool] = true()) -> Select[int]:  # noqa: B008 - immutable
    """Select the keys of events whose bodies can be removed; all their deliveries are ``among`` these."""
    theirs = select(_d.c.id).where(_d.c.event_key == _e.c.key, among)
    is_needed = or_(_d.c.status != "delivered", _d.c.finished_at > delivered_before)
    return select(_e.c.key).where(
        # The others need no look-up. If a clock was further ahead, their bodies stay until this time.
        _e.c.accepted_at <= delivered_before + _MOST_AHEAD_SECONDS,
        func.coalesce(_e.c.form, "").not_in(["absent", "removed", "erased"]),
        theirs.exists(),
        ~theirs.where(is_needed).exists(),
    )
