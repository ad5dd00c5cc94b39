"""Reads counters, gauges and the statistics of a window, in one snapshot of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from resonant.metrics.statistics import statistics, unfinished
from resonant.metrics.totals import read_totals
from resonant.store import counters, schema, sketches

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.metrics.statistics import Statistics
    from resonant.metrics.totals import Totals
    from resonant.store import Store

_d = schema.deliveries


async def measure(store: Store, *, hours: float) -> tuple[Totals, Statistics]:
    """Read counters and gauges, and compute the statistics of the last hours, from one snapshot.

    Raises:
        StoreUnavailable: the store became unavailable.
    """
    now = store.clock()

    def read(connection: Connection) -> tuple[Totals, Statistics]:
        found = read_statistics(connection, now=now, since=now - hours * 3600)
        return read_totals(connection, now=now), found

    return await store.read(read)


def read_statistics(connection: Connection, *, now: float, since: float) -> Statistics:
    """Compute the statistics of a window, from the beginning of a minute, hour or day: see ``begin_of``.

    Args:
        connection: an open connection.
        now: seconds since the epoch.
        since: seconds since the epoch.
    """
    begin = sketches.begin_of(since, now=now)
    rows = sketches.read(connection, since=begin, until=now)
    for tally in counters.read_unfolded(connection):
        if begin <= tally.minute <= now:
            rows.append(sketches.pack(tally.minute, tally.sketches()))
    key = (_d.c.endpoint, _d.c.event_type, _d.c.attempts)
    query = select(*key, func.count()).where(_d.c.available_at.is_not(None)).group_by(*key)
    waiting = [unfinished(*row) for row in connection.execute(query)]
    return statistics(rows, waiting, since=begin, until=now)
