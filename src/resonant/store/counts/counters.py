"""Counts, written in the transaction whose facts they count, so no purge or restart lowers them.

Each transaction inserts its counts as one row (``Tally.write``), and updates none, so writers never wait for each other. Folds
turn these rows into sketches (see ``sketches``), each in one transaction, so readers that add up both see the same sums in
every snapshot. Dispatchers fold every five seconds; compactions fold too. Accepted events have a ledger: see ``acceptances``.

============= ====================================== ==================== =========================================
measure       measured                               result               detail
============= ====================================== ==================== =========================================
attempt       the attempt's duration                 delivered, failed,   type of the error
                                                     lost
delivery      acceptance to delivery or end          delivered,           reason of a dead letter
                                                     dead_letter
first_attempt acceptance to the first attempt        none                 none
retries       retries of an ended delivery           none                 none
delay         the delay drawn                        none                 see ``DelayOf``
replay        none                                   replayed             none
replayed      retries of a replayed dead letter      dead_letter          its reason
purge         none                                   delivered,           none
                                                     dead_letter
============= ====================================== ==================== =========================================

A replay is counted twice: as ``replay`` when it happens, and as ``replayed`` in the hour in which the dead letter was given up,
from which statistics subtract it.
"""

import json
import math
import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, delete, select

from resonant.store import schema
from resonant.store.counts import sketches
from resonant.store.counts.sketches import EVER, NANOSECONDS, Labels, Packed, Sketch, to_json
from resonant.store.engine.sql import insert_row

Measure = Literal["attempt", "delivery", "first_attempt", "retries", "delay", "replay", "replayed", "purge"]
# Prometheus has counters and histograms of these, without event types and details.
_COUNTED_EVER = frozenset[Measure]({"attempt", "delivery", "delay", "replay", "purge"})
_BYTES = 8  # per duration
_t = schema.tallies
_COLUMNS = (_t.c.minute, _t.c.entries, _t.c.seconds)
_s = schema.sketches


class Tally:
    """Counts and durations collected for one transaction.

    ``write`` inserts them as one row, in the transaction. Later, ``settle`` turns them into sketches.
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
        """Add one duration; without ``seconds``, add ``count`` unmeasured occurrences."""
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
        """Insert the counts as one row, for ``fold``."""
        if not (self._counts or self._seconds):
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
        """Insert the counts as rows of sketches."""
        for row in self.rows():
            sketches.insert(connection, row)

    def rows(self) -> list[Packed]:
        """Return the counts as rows of sketches: one for the minute, and one for *ever* if Prometheus counts any."""
        found = self.sketches()
        both = ((self.minute, found), (EVER, _of_ever(found)))
        return [sketches.pack(minute, each) for minute, each in both if each]

    def sketches(self, endpoints: Collection[str] | None = None) -> list[tuple[Labels, Sketch]]:
        """Return the counts by their labels: those of these endpoints, or all."""
        found: defaultdict[Labels, Sketch] = defaultdict(Sketch)
        for key, durations in self._seconds.items():
            if endpoints is None or key[1] in endpoints:
                found[Labels(*key)] = Sketch.of(durations)
        for key, number in self._counts.items():
            if endpoints is None or key[1] in endpoints:
                found[Labels(*key)].count += number
        return list(found.items())

    def numbers(self) -> list[tuple[Labels, int]]:
        """Return the numbers of occurrences by their labels; a label may be repeated."""
        measured = ((key, len(durations)) for key, durations in self._seconds.items())
        return [(Labels(*key), number) for key, number in chain(self._counts.items(), measured)]


class DelayOf(NamedTuple):
    """The detail of a delay: number of the failed attempt in its round, whether a Retry-After asked for it, policy.

    The policy is None or empty if the producer requested none.
    """

    after: int
    asked: bool
    policy: str | None

    def to_text(self) -> str:
        """Return the detail as a label."""
        return f"{self.after} {int(self.asked)} {self.policy or ''}"

    @classmethod
    def from_text(cls, text: str) -> "DelayOf":
        """Return the detail that ``to_text`` wrote."""
        after, asked, policy = text.split(" ", 2)
        return cls(int(after), asked == "1", policy)


def count_retries(tally: Tally, where: tuple[str, str], attempts: int) -> None:
    """Count the retries of a delivery that ended after this number of attempts."""
    if attempts:
        tally.add("retries", *where, "", seconds=attempts - 1)


def is_any(connection: Connection) -> bool:
    """Return whether there are tallies to fold."""
    return connection.execute(select(_t.c.id).limit(1)).first() is not None


def fold(connection: Connection, *, limit: int) -> int:
    """Turn up to ``limit`` tallies into sketches; return their number. Tallies locked by another fold are skipped."""
    picked = select(_t.c.id).order_by(_t.c.id).limit(limit).with_for_update(skip_locked=True).cte("picked")
    taking = delete(_t).where(_t.c.id.in_(select(picked.c.id))).returning(*_COLUMNS)
    taken = list(connection.execute(taking))
    for tally in _added_up(taken):
        tally.settle(connection)
    return len(taken)


def read_rows(connection: Connection, *, since: float, until: float = math.inf) -> list[Packed]:
    """Return the sketches of a window, in seconds since the epoch, including what is not folded yet."""
    unfolded = read_unfolded(connection, since, until)
    rows = [sketches.pack(tally.minute, tally.sketches()) for tally in unfolded]
    return [*sketches.read(connection, since=since, until=until), *rows]


def read_ever(connection: Connection) -> dict[Labels, Sketch]:
    """Return everything that Prometheus counts since the store was created, without event types and details."""
    found = sketches.add_up(sketches.read(connection, since=EVER, until=EVER))
    for tally in read_unfolded(connection):
        for labels, sketch in _of_ever(tally.sketches()):
            found[labels].add(sketch)
    return found


def _of_ever(found: Iterable[tuple[Labels, Sketch]]) -> list[tuple[Labels, Sketch]]:
    """Return what Prometheus counts of these sketches, without event types and details."""
    ever: defaultdict[Labels, Sketch] = defaultdict(Sketch)
    for labels, sketch in found:
        if labels.measure in _COUNTED_EVER:
            ever[labels._replace(event_type="", detail="")].add(sketch.coarse())
    return list(ever.items())


class Count(NamedTuple):
    """A number of occurrences in a minute, hour or day, and the sum of their durations in seconds."""

    minute: int
    labels: Labels
    number: int
    seconds: float


def read_counts(
    connection: Connection, measures: Collection[Measure], *, since: float, until: float = math.inf
) -> list[Count]:
    """Return the counts of a window like ``read_rows``, without the distribution of their durations."""
    query = select(_s.c.minute, _s.c.entries).where(_s.c.minute.between(since, until))
    found = [
        Count(minute, Labels(*labels), number, total / NANOSECONDS)
        for minute, entries in connection.execute(query)
        for *labels, number, total, _least, _most, _width in json.loads(entries)
        if labels[0] in measures
    ]
    unfolded = [
        Count(tally.minute, labels, sketch.count, sketch.total / NANOSECONDS)
        for tally in read_unfolded(connection, since, until)
        for labels, sketch in tally.sketches()
        if labels.measure in measures
    ]
    return found + unfolded


def read_unfolded(connection: Connection, since: float = 0.0, until: float = math.inf) -> list[Tally]:
    """Return the tallies of a window that are not folded yet, added up by minute."""
    return _added_up(connection.execute(select(*_COLUMNS).where(_t.c.minute.between(since, until))))


def _added_up(rows: Iterable[Any]) -> list[Tally]:
    found: dict[int, Tally] = {}
    for minute, entries, seconds in rows:
        found.setdefault(minute, Tally(minute)).add_row(entries, seconds)
    return [tally for _, tally in sorted(found.items())]
