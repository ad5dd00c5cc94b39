"""Counters by minute, written in the very transaction whose facts they count; so no purge or restart lowers them.

A row's key is ``(measure, minute, endpoint, event_type, result, category, code, le)``; ``count`` and ``total`` (the
sum of the seconds measured) only grow. ``le`` is the upper bound of the histogram bucket, as in Prometheus.

============= ================================ ==================================================
measure       seconds measured                 result
============= ================================ ==================================================
accepted      none                             accepted
attempt       the attempt's duration           delivered, failed, lost
delivery      acceptance to delivery or end    delivered, dead_letter
retry_delay   the delay drawn                  retry, park
replay        none                             replayed
purge         none                             delivered, dead_letter
============= ================================ ==================================================
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, Literal, NamedTuple

from sqlalchemy.dialects import postgresql, sqlite

from resonant.store import schema

if TYPE_CHECKING:
    from sqlalchemy import Connection

Measure = Literal["accepted", "attempt", "delivery", "retry_delay", "replay", "purge"]

# Seconds. One set serves attempts (ms to the deadline) and waits (to a day); rows exist only for buckets that were hit.
BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0, 14_400.0, 86_400.0, math.inf),
)


class Key(NamedTuple):
    """What one counter counts."""

    measure: Measure
    minute: int
    endpoint: str
    event_type: str
    result: str
    category: str
    code: str
    le: float


class Tally:
    """Counts collected for one transaction, then added to the table in one statement."""

    def __init__(self, now: float) -> None:
        self._minute = int(now // 60) * 60
        self._counts: defaultdict[Key, list[float]] = defaultdict(lambda: [0, 0.0])

    def add(
        self,
        measure: Measure,
        endpoint: str,
        event_type: str,
        result: str,
        category: str | None = None,
        code: str | None = None,
        *,
        seconds: float | None = None,
        count: int = 1,
    ) -> None:
        """Count ``count`` facts; ``seconds`` goes into the histogram, None is no measurement (bucket +Inf)."""
        # A clock that was put back shall not make a sum fall.
        measured = max(0.0, seconds or 0.0)
        le = math.inf if seconds is None else BUCKETS[bisect_left(BUCKETS, measured)]
        labels = (endpoint, event_type, result, category or "", code or "")
        cell = self._counts[Key(measure, self._minute, *labels, le)]
        cell[0] += count
        cell[1] += measured

    def write(self, connection: Connection) -> None:
        """Add the counts to the table, in the order of their keys: two workers never wait for each other in a ring."""
        if not self._counts:
            return
        rows = [
            {**key._asdict(), "count": cell[0], "total": cell[1]}
            for key, cell in sorted(self._counts.items())
        ]
        insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(schema.rollups)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=list(schema.rollups.primary_key.columns),
                set_={
                    "count": schema.rollups.c.count + insert.excluded.count,
                    "total": schema.rollups.c.total + insert.excluded.total,
                },
            ),
            rows,
        )
