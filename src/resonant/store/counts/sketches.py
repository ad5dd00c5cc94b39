"""Sketches: counts, with their durations in logarithmic buckets, for percentiles with an error below 1 %.

The buckets are those of DDSketch (Masson, Rim and Lee, 2019): bucket ``n`` holds the durations above ``GAMMA ** (n - 1)``
and up to ``GAMMA ** n``. Count, sum, minimum and maximum are exact. Two sketches are merged by adding their counts, so
the distribution of attempts over transactions, minutes and hours does not matter.

A fold inserts two rows (see ``counters``): one for its minute, and one for the span *ever*, for Prometheus's counters and
histograms. No row is updated. ``gather`` merges the rows of a minute into one, later the minutes into hours, and the
hours into days; and the rows of *ever* into one. Readers add up all rows of a span.
"""

import json
import math
import struct
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import ceil, log
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select

from resonant.store import schema
from resonant.store.engine.sql import insert_row

GAMMA = 1.02
# Shorter durations, in seconds, count as zero.
SHORTEST = 1e-9
ZERO_BUCKET = -1_100
_BUCKETS_PER_E = 1 / math.log(GAMMA)
NANOSECONDS = 1_000_000_000

# The bounds of Prometheus's histograms, in seconds: for attempts (milliseconds to the deadline) and for waits (up to a day).
BOUNDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0, 14_400.0, 86_400.0, math.inf),
)

EVER = -1  # in place of a minute
MINUTES_KEPT_SECONDS = 3600
HOURS_KEPT_SECONDS = 60 * 86_400
# Slow readers, and readers with a slow clock, still find the minutes and hours of their window.
_SLACK_SECONDS = 300
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
ROWS_AT_ONCE = 1_000
# Without exports, dispatchers merge the rows of *ever*: one merge costs as much as reading these rows.
_EVER_ROWS = 100
_t = schema.sketches
to_json = json.JSONEncoder(separators=(",", ":")).encode


class Labels(NamedTuple):
    """The labels of a sketch; see ``counters`` for the measures. ``detail`` depends on the measure."""

    measure: str
    endpoint: str
    event_type: str
    result: str = ""
    category: str = ""
    code: str = ""
    detail: str = ""


@dataclass(slots=True)
class Sketch:
    """A count of occurrences, with their durations in buckets if they were measured.

    Attributes:
        count: the number of occurrences, including unmeasured ones.
        total: sum of the durations, each rounded to nanoseconds, so that adding is exact.
        least, most: seconds; None if nothing was measured.
        buckets: the number of durations, by bucket.
    """

    count: int = 0
    total: int = 0
    least: float | None = None
    most: float | None = None
    buckets: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, seconds: Sequence[float], unmeasured: int = 0) -> "Sketch":
        """Return the sketch of durations; a negative one, after a clock was set back, counts as zero."""
        if not seconds:
            return cls(unmeasured)
        least, most = min(seconds), max(seconds)
        count = len(seconds)
        if least < 0:
            seconds = [max(each, 0.0) for each in seconds]
            least, most = 0.0, max(most, 0.0)
        if least == most:
            buckets = Counter({bucket_of(least): count})
        elif least < SHORTEST:
            buckets = Counter(map(bucket_of, seconds))
        else:
            buckets = Counter([ceil(log(each) * _BUCKETS_PER_E) for each in seconds])  # inlined bucket_of
        total = sum([int(each * NANOSECONDS + 0.5) for each in seconds])
        return cls(count + unmeasured, total, least, most, buckets)

    def add(self, other: "Sketch") -> None:
        """Add another sketch to this one."""
        self.count += other.count
        self.total += other.total
        if other.least is not None:
            self.least = other.least if self.least is None else min(self.least, other.least)
        if other.most is not None:
            self.most = other.most if self.most is None else max(self.most, other.most)
        self.buckets.update(other.buckets)

    def coarse(self) -> "Sketch":
        """Return a copy with one bucket for each interval between two bounds of Prometheus's histograms."""
        buckets = Counter[int]()
        for bucket, number in self.buckets.items():
            buckets[_coarse(bucket)] += number
        return Sketch(self.count, self.total, self.least, self.most, buckets)

    def by_bound(self) -> Counter[float]:
        """Return the numbers of durations between the bounds of Prometheus's histograms, by upper bound.

        A duration within 1 % of a bound may be counted on its other side. Unmeasured occurrences are above all bounds.
        """
        counts = Counter({math.inf: self.count - self.buckets.total()})
        for bucket, number in self.buckets.items():
            counts[bound_of(bucket)] += number
        return counts


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration."""
    return ZERO_BUCKET if seconds < SHORTEST else math.ceil(math.log(seconds) * _BUCKETS_PER_E)


def seconds_of(bucket: int) -> float:
    """Return the duration that represents a bucket: it is within 1 % of each duration in it."""
    return 0.0 if bucket == ZERO_BUCKET else 2 * GAMMA**bucket / (GAMMA + 1)


@cache
def bound_of(bucket: int) -> float:
    """Return the lowest bound of Prometheus's histograms that is not below a bucket."""
    return BOUNDS[bisect_left(BOUNDS, seconds_of(bucket))]


@cache
def _coarse(bucket: int) -> int:
    """Return the highest bucket whose durations are all below the bound of a bucket."""
    bound = bound_of(bucket)
    return bucket_of(BOUNDS[-2]) + 1 if bound == math.inf else bucket_of(bound) - 1


class Packed(NamedTuple):
    """A row of the table: the sketches of a minute, hour or day that begins at ``minute``, or those of ``EVER``.

    Attributes:
        minute: seconds since the epoch, or ``EVER``.
        entries: JSON, one list per sketch: labels, count, total, least, most and number of buckets.
        buckets: the buckets of all sketches, as 16-bit integers, then their counts, little-endian: as 64-bit integers for
            ``EVER``, otherwise as 32-bit ones.
    """

    minute: int
    entries: str
    buckets: bytes


def pack(minute: int, sketches: Iterable[tuple[Labels, Sketch]]) -> Packed:
    """Pack sketches into a row."""
    entries = []
    buckets: list[int] = []
    numbers: list[int] = []
    for labels, sketch in sketches:
        of_sketch = sorted(sketch.buckets.items())
        entries.append([*labels, sketch.count, sketch.total, sketch.least, sketch.most, len(of_sketch)])
        buckets += [bucket for bucket, _ in of_sketch]
        numbers += [number for _, number in of_sketch]
    return Packed(minute, to_json(entries), _layout(minute, len(buckets)).pack(*buckets, *numbers))


def _layout(minute: int, size: int) -> struct.Struct:
    return struct.Struct(f"<{size}h{size}{'Q' if minute == EVER else 'I'}")


def merge(minute: int, rows: Iterable[Packed]) -> Packed:
    """Merge rows into the row of this minute, hour or day, or of ``EVER``."""
    return pack(minute, sorted(add_up(rows).items(), key=lambda item: item[0]))


def add_up(rows: Iterable[Packed]) -> defaultdict[Labels, Sketch]:
    """Add up the sketches of rows by their labels."""
    sums: defaultdict[tuple[str, ...], Sketch] = defaultdict(Sketch)
    for row in rows:
        size = len(row.buckets) // _layout(row.minute, 1).size
        values = _layout(row.minute, size).unpack(row.buckets)
        place = 0
        for *labels, count, total, least, most, width in json.loads(row.entries):
            sketch = sums[tuple(labels)]
            sketch.count += count
            sketch.total += total  # an upgraded store has totals without buckets
            if not width:
                continue
            sketch.least = least if sketch.least is None else min(sketch.least, least)
            sketch.most = most if sketch.most is None else max(sketch.most, most)
            buckets, start, place = sketch.buckets, place, place + width
            for bucket, number in zip(values[start:place], values[size + start : size + place], strict=True):
                buckets[bucket] = buckets.get(bucket, 0) + number
    return defaultdict(Sketch, ((Labels(*labels), sketch) for labels, sketch in sums.items()))


def insert(connection: Connection, row: Packed) -> None:
    """Insert a row."""
    insert_row(connection, _t, row._asdict())


def read(connection: Connection, *, since: float, until: float) -> list[Packed]:
    """Return the rows of the minutes, hours and days that begin between these times, seconds since the epoch."""
    query = select(_t.c.minute, _t.c.entries, _t.c.buckets).where(_t.c.minute.between(since, until))
    return list(map(Packed._make, connection.execute(query)))


def begin_of(since: float, *, now: float) -> int:
    """Return the beginning of the minute, or that of the hour or day if minutes or hours are no longer kept."""
    since = max(0.0, since)
    size = _size(since, now - MINUTES_KEPT_SECONDS, now - HOURS_KEPT_SECONDS)
    return int(since // size) * size


def _size(moment: float, minutes_since: float, hours_since: float) -> int:
    """Return the length, in seconds, of the rows that are kept for this moment."""
    return _MINUTE if moment >= minutes_since else _HOUR if moment >= hours_since else _DAY


class Span(NamedTuple):
    """The rows to merge into one: from ``start``, before ``end``, seconds since the epoch."""

    start: int
    end: int


def find_spans(connection: Connection, *, now: float, is_cheap: bool = False) -> list[Span]:
    """Return the minutes, hours and days that are over and have more than one row, and *ever*.

    Args:
        is_cheap: return only recent minutes, and *ever* only if it has many rows.
    """
    minutes_before = int((now - MINUTES_KEPT_SECONDS - _SLACK_SECONDS) // _MINUTE) * _MINUTE
    days_before = int((now - HOURS_KEPT_SECONDS - _SLACK_SECONDS) // _DAY) * _DAY
    minute = _t.c.minute
    # Rows that are not at the start of their span must move, even a single one.
    must_move = or_(
        and_(minute < minutes_before, minute % _HOUR != 0), and_(minute < days_before, minute % _DAY != 0)
    )
    counts = select(minute, func.count()).group_by(minute).having(or_(func.count() > 1, must_move))
    counts = counts.where(minute <= now - _MINUTE)
    if is_cheap:
        counts = counts.where(or_(minute == EVER, minute >= minutes_before))
    found = set()
    for begin, count in connection.execute(counts):
        if begin == EVER:
            if count > (_EVER_ROWS if is_cheap else 1):
                found.add(Span(EVER, EVER + 1))
            continue
        size = _size(begin, minutes_before, days_before)
        start = begin // size * size
        # A recent hour is merged minute by minute.
        found.add(Span(start, min(start + size, minutes_before) if size > _MINUTE else start + size))
    return sorted(found)


def gather(connection: Connection, span: Span, *, limit: int = ROWS_AT_ONCE) -> int:
    """Merge up to ``limit`` rows of a span into one and return their number; skip rows that another process merges."""
    condition: ColumnElement[bool] = (_t.c.minute >= span.start) & (_t.c.minute < span.end)
    picked = select(_t.c.id).where(condition).limit(limit).with_for_update(skip_locked=True)
    taking = delete(_t).where(_t.c.id.in_(select(picked.cte("picked").c.id)))
    rows: list[Any] = list(connection.execute(taking.returning(_t.c.minute, _t.c.entries, _t.c.buckets)))
    if rows:
        insert(connection, merge(span.start, map(Packed._make, rows)))
    return len(rows)
