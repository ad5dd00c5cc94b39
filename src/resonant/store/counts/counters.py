"""Counters per minute, written in the transaction that they count, so no purge or restart lowers them.

Each transaction inserts its counts as one row: ``acceptances`` for accepted events, ``Tally.write`` for everything else.
Updating the rollups would take many statements and three times as long. Folds move these rows into the rollups, each in one
transaction, so readers that add up both see the same sums in every snapshot. Dispatchers fold every five seconds;
compactions fold too.

A rollup's key is ``(measure, minute, endpoint, event_type, result, category, code, le)``; ``count`` and ``total`` (the
sum of the seconds measured) only grow. ``le`` is the upper bound of the histogram bucket, as in Prometheus. Only recent
minutes stay in the rollups: ``counter_compaction`` moves older ones into totals and a history.

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

The same fold creates sketches for the statistics (see ``sketches``): for attempts, deliveries, and measures that are not in the
rollups. Only sketches have the label ``detail``.

============= ====================================== =================================================
measure       measured                               detail
============= ====================================== =================================================
attempt       the attempt's duration                 type of the error
delivery      acceptance to delivery or end          reason of a dead letter
first_attempt acceptance to the first attempt        none
retries       retries of an ended delivery           none
delay         the delay drawn                        see ``DelayOf``
replayed      retries of a replayed dead letter      its reason
============= ====================================== =================================================

A replay is counted in the hour in which the dead letter was given up, and statistics subtract it from that hour.
"""

from __future__ import annotations

import json
import math
import struct
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from sqlalchemy import delete, select

from resonant.store import schema
from resonant.store.counts import sketches
from resonant.store.counts.sketches import Labels, Sketch, to_json
from resonant.store.engine.sql import insert_into, insert_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection, Table

OnlySketched = Literal["first_attempt", "retries", "delay", "replayed"]
Measure = Literal["accepted", "attempt", "delivery", "retry_delay", "replay", "purge", OnlySketched]
ONLY_SKETCHED = frozenset(get_args(OnlySketched))
SKETCHED = ONLY_SKETCHED | {"attempt", "delivery"}

# Seconds, for attempts (milliseconds to the deadline) and for waits (up to a day). Only buckets in use have rows.
BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0, 14_400.0, 86_400.0, math.inf),
)

# Seconds are stored as multiples of 1/65536 (15 microseconds). Sums of such floats are exact up to 4,000 years, so they do
# not depend on the order of additions, and compaction cannot lower one by a rounding error.
_QUANTA_A_SECOND = 2**16
QUANTUM = 1 / _QUANTA_A_SECOND

_OPTION = "resonant_rollups"
_BYTES = 8  # per duration
_t = schema.tallies
_COLUMNS = (_t.c.minute, _t.c.entries, _t.c.seconds)


def switch_off(connection: Connection) -> None:
    """Stop counting the writes on this connection."""
    connection.execution_options(**{_OPTION: False})


def is_on(connection: Connection) -> bool:
    """Return whether writes on this connection are counted."""
    return bool(connection.get_execution_options().get(_OPTION, True))


class Tally:
    """Counts and durations collected for one transaction.

    ``write`` inserts them as one row, in the transaction. Later, ``settle`` adds them to the rollups and the sketches.
    """

    def __init__(self, now: float) -> None:
        self.minute = int(now // 60) * 60
        # Keyed by labels, which are plain tuples: a commit creates many.
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._seconds: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)

    def add(
        self,
        measure: Measure,
        endpoint: str,
        event_type: str,
        result: str = "",
        category: str | None = None,
        code: str | None = None,
        *,
        detail: str | None = None,
        seconds: float | None = None,
        count: int = 1,
    ) -> None:
        """Add one duration; without ``seconds``, add ``count`` unmeasured occurrences (bucket +Inf)."""
        labels = (measure, endpoint, event_type, result, category or "", code or "", detail or "")
        if seconds is None:
            self._counts[labels] += count
        else:
            self._seconds[labels].append(seconds)

    def add_all(
        self, measure: Measure, endpoint: str, event_type: str, result: str, seconds: list[float]
    ) -> None:
        """Add durations that share these labels and have no category, code or detail."""
        if seconds:
            self._seconds[measure, endpoint, event_type, result, "", "", ""] += seconds

    def write(self, connection: Connection) -> None:
        """Insert the counts as one row, for ``fold``. No row is updated, so writers never wait for each other."""
        if not (self._counts or self._seconds) or not is_on(connection):
            return
        entries = [(*labels, number, 0) for labels, number in self._counts.items()]
        entries += [(*labels, 0, len(durations)) for labels, durations in self._seconds.items()]
        values = [each for durations in self._seconds.values() for each in durations]
        packed = struct.pack(f"<{len(values)}d", *values)
        insert_row(connection, _t, {"minute": self.minute, "entries": to_json(entries), "seconds": packed})

    def add_row(self, entries: str, seconds: bytes) -> None:
        """Add a row that ``write`` inserted."""
        values = struct.unpack(f"<{len(seconds) // _BYTES}d", seconds)
        start = 0
        for *labels, number, width in json.loads(entries):
            key = tuple(labels)
            if number:
                self._counts[key] += number
            if width:
                self._seconds[key] += values[start : start + width]
            start += width

    def settle(self, connection: Connection) -> None:
        """Add the counts to the rollups, sorted by key, so that two folds cannot deadlock; insert the sketches."""
        if rows := self.rows():
            add_to(schema.rollups, connection, rows)
        if entries := self.sketches():
            sketches.insert(connection, sketches.pack(self.minute, entries))

    def rows(self) -> list[dict[str, Any]]:
        """Return the counts as rows of the table of rollups, sorted by key."""
        parts = [(labels, math.inf, number, 0.0) for labels, number in self._counts.items()]
        for labels, durations in self._seconds.items():
            if labels[0] not in ONLY_SKETCHED:
                parts += [(labels, *bucket) for bucket in _by_bucket(durations)]
        cells: defaultdict[tuple[Any, ...], list[float]] = defaultdict(lambda: [0, 0.0])
        for (measure, *others, _detail), le, number, seconds in parts:
            if measure not in ONLY_SKETCHED:
                cell = cells[measure, self.minute, *others, le]
                cell[0] += number
                cell[1] += seconds
        names = schema.rollups.columns.keys()  # the key in this order, then count and total
        return [dict(zip(names, (*key, *cell), strict=True)) for key, cell in sorted(cells.items())]

    def sketches(self) -> list[tuple[Labels, Sketch]]:
        """Return the sketches for the statistics, with their labels."""
        found = {labels: Sketch.of(durations) for labels, durations in self._seconds.items()}
        for labels, number in self._counts.items():
            found.setdefault(labels, Sketch()).count += number
        return [(Labels(*labels), each) for labels, each in found.items() if labels[0] in SKETCHED]


def _by_bucket(durations: Iterable[float]) -> Iterator[tuple[float, int, float]]:
    """Yield the bound of each bucket in use, its number of durations, and their sum in seconds."""
    ordered = sorted(durations)
    start = 0
    while start < len(ordered):
        le = BUCKETS[bisect_left(BUCKETS, ordered[start])]
        end = bisect_right(ordered, le, start)
        # A clock that was set back must not lower a sum. Each duration is rounded, so that a sum does not depend on grouping.
        quanta = sum(int(each * _QUANTA_A_SECOND + 0.5) for each in ordered[start:end] if each > 0)
        yield le, end - start, quanta * QUANTUM
        start = end


class DelayOf(NamedTuple):
    """The detail of a delay: number of the failed attempt in its round, whether a Retry-After asked for it, policy."""

    after: int
    asked: bool
    policy: str | None

    def to_text(self) -> str:
        """Return the detail as a label."""
        return f"{self.after} {int(self.asked)} {self.policy or ''}"

    @classmethod
    def from_text(cls, text: str) -> DelayOf:
        """Return the detail that ``to_text`` wrote."""
        after, asked, policy = text.split(" ", 2)
        return cls(int(after), asked == "1", policy or None)


def count_retries(tally: Tally, where: tuple[str, str], attempts: int) -> None:
    """Count the retries of a delivery that ended after this number of attempts."""
    if attempts:
        tally.add("retries", *where, "", seconds=attempts - 1)


def add_to(table: Table, connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Add counts, sorted by key, to a table of rollups."""
    insert = insert_into(connection.dialect.name, table)
    adding = insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + insert.excluded[name] for name in ("count", "total")},
    )
    connection.execute(adding, rows)


def is_any(connection: Connection) -> bool:
    """Return whether there are tallies to fold."""
    return connection.execute(select(_t.c.id).limit(1)).first() is not None


def fold(connection: Connection, *, limit: int) -> int:
    """Move up to ``limit`` tallies; return their number. Tallies locked by another fold are skipped."""
    picked = select(_t.c.id).order_by(_t.c.id).limit(limit).with_for_update(skip_locked=True).cte("picked")
    taking = delete(_t).where(_t.c.id.in_(select(picked.c.id))).returning(*_COLUMNS)
    taken = list(connection.execute(taking))
    for tally in _added_up(taken):
        tally.settle(connection)
    return len(taken)


def read_unfolded(connection: Connection) -> list[Tally]:
    """Return the counts that are not folded yet, one tally per minute."""
    return _added_up(connection.execute(select(*_COLUMNS)))


def read_unfolded_rows(connection: Connection, *, since: float = 0) -> Iterator[dict[str, Any]]:
    """Yield unfolded counts as rows of the rollups, from the minute ``since`` (seconds since the epoch)."""
    for tally in read_unfolded(connection):
        if tally.minute >= int(since):
            yield from tally.rows()


def _added_up(rows: Iterable[Any]) -> list[Tally]:
    found: dict[int, Tally] = {}
    for minute, entries, seconds in rows:
        found.setdefault(minute, Tally(minute)).add_row(entries, seconds)
    return [tally for _, tally in sorted(found.items())]
