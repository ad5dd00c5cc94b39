"""Counters by minute, written in the transaction whose events they count, so no purge or restart lowers them.

Accepted events are counted in ``resonant_acceptances`` first, and moved here later: see ``acceptances``.

A row's key is ``(measure, minute, endpoint, event_type, result, category, code, le)``; ``count`` and ``total`` (the
sum of the seconds measured) only grow. ``le`` is the upper bound of the histogram bucket, as in Prometheus. Only the last
minutes stay here: ``counter_compaction`` moves older ones into totals and a history.

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
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from resonant.store import schema
from resonant.store.sql import insert_into

if TYPE_CHECKING:
    from sqlalchemy import Connection, Insert, Table

Measure = Literal["accepted", "attempt", "delivery", "retry_delay", "replay", "purge"]
_Labels = tuple[Measure, str, str, str, str, str, float]

# Seconds. One set serves attempts (ms to the deadline) and waits (to a day); rows exist only for buckets that were hit.
BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0, 14_400.0, 86_400.0, math.inf),
)

# Seconds are stored as multiples of 1/65536 (15 microseconds). Sums of such floats are exact up to 4,000 years, so they do
# not depend on the order of additions, and compaction cannot lower one by a rounding error.
_QUANTA_A_SECOND = 2**16
QUANTUM = 1 / _QUANTA_A_SECOND

_OPTION = "resonant_rollups"


def switch_off(connection: Connection) -> None:
    """Stop counting the writes on this connection."""
    connection.execution_options(**{_OPTION: False})


def is_on(connection: Connection) -> bool:
    """Return whether writes on this connection are counted."""
    return bool(connection.get_execution_options().get(_OPTION, True))


class Tally:
    """Counts collected for one transaction, then added to the table in one statement."""

    def __init__(self, now: float) -> None:
        self._minute = int(now // 60) * 60
        # Count and quanta by the columns of the key without the minute, which is the same for all.
        self._counts: defaultdict[_Labels, list[int]] = defaultdict(lambda: [0, 0])

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
        """Add ``count``; ``seconds`` goes into the histogram, None means not measured (bucket +Inf)."""
        le = math.inf if seconds is None else BUCKETS[bisect_left(BUCKETS, seconds)]
        cell = self._counts[measure, endpoint, event_type, result, category or "", code or "", le]
        cell[0] += count
        if seconds and seconds > 0:  # a clock that was set back must not lower a sum
            cell[1] += int(seconds * _QUANTA_A_SECOND + 0.5)

    def write(self, connection: Connection) -> None:
        """Add the counts to the minute, sorted by key, so that two workers cannot deadlock."""
        if self._counts and is_on(connection):
            add_to(schema.rollups, connection, self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the counts as rows of the table, sorted by key."""
        return [
            {
                "measure": measure,
                "minute": self._minute,
                "endpoint": endpoint,
                "event_type": event_type,
                "result": result,
                "category": category,
                "code": code,
                "le": le,
                "count": number,
                "total": quanta / _QUANTA_A_SECOND,
            }
            for (measure, endpoint, event_type, result, category, code, le), (number, quanta) in sorted(
                self._counts.items()
            )
        ]


def add_to(table: Table, connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Add counts, sorted by key, to a table of rollups."""
    connection.execute(_adding(table, connection.dialect.name), rows)


@cache
def _adding(table: Table, dialect: str) -> Insert:
    insert = insert_into(dialect, table)
    adding: Insert = insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + insert.excluded[name] for name in ("count", "total")},
    )
    return adding
