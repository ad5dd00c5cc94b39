"""Percentiles of the store's sketches: add up the buckets, cumulate their counts, and look up the ranks.

A percentile is interpolated between the two nearest ranks, as numpy does by default. Each rank is accurate to 1 %, so the
percentile is too. The lowest and the highest rank are exact.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from pandas import Series

from resonant.store.counts.sketches import Labels, seconds_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

    from resonant.store.counts.sketches import Packed

_HOUR = 3600
_QUANTILES = (0.5, 0.95, 0.99)
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Spread:
    """Statistics of durations, in seconds: percentiles within 1 %, the others exact."""

    min: float | None = None
    avg: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(slots=True)
class Entry:
    """The sums of one hour and set of labels; see ``store.counts.sketches``.

    Attributes:
        measured: how many of ``count`` have a duration.
        total: the sum of the durations, in nanoseconds, so that the order of additions does not matter.
        buckets, numbers: arrays of bucket numbers and of their counts, one pair for each row.
    """

    hour: int
    labels: Labels
    count: int = 0
    measured: int = 0
    total: int = 0
    least: float = inf
    most: float = -inf
    buckets: list[NDArray[np.int16]] = field(default_factory=list)
    numbers: list[NDArray[np.uint32]] = field(default_factory=list)


def read_entries(rows: Iterable[Packed]) -> Collection[Entry]:
    """Add up the sketches of a window by hour and labels."""
    entries: dict[tuple[int, Labels], Entry] = {}
    for row in rows:
        hour = row.minute // _HOUR * _HOUR
        size = len(row.buckets) // 6
        buckets = np.frombuffer(row.buckets, "<i2", size)
        numbers = np.frombuffer(row.buckets, "<u4", size, offset=2 * size)
        counts = numbers.tolist()
        end = 0
        for *labels, count, total, least, most, width in json.loads(row.entries):
            key = (hour, Labels(*labels))
            if (entry := entries.get(key)) is None:
                entry = entries[key] = Entry(*key)
            entry.count += count
            if width:
                start, end = end, end + width
                entry.measured += sum(counts[start:end])
                entry.total += total
                entry.least = min(entry.least, least)
                entry.most = max(entry.most, most)
                entry.buckets.append(buckets[start:end])
                entry.numbers.append(numbers[start:end])
    _limit_replays(entries.values())
    return entries.values()


def _limit_replays(entries: Collection[Entry]) -> None:
    """Limit replays to the number of dead letters counted in the same hour.

    An earlier version, or a process with rollups off, did not count its dead letters here. Their replays must not be
    subtracted from other dead letters.
    """

    def counted_as(entry: Entry) -> tuple[int, str, str, str]:
        return (entry.hour, entry.labels.endpoint, entry.labels.event_type, entry.labels.detail)

    dead: Counter[tuple[int, str, str, str]] = Counter()
    for entry in entries:
        if entry.labels.measure == "delivery" and entry.labels.result == "dead_letter":
            dead[counted_as(entry)] += entry.count
    for entry in entries:
        if entry.labels.measure == "replayed":
            known = min(entry.count, dead[counted_as(entry)])
            dead[counted_as(entry)] -= known
            if known < entry.count:
                entry.measured = entry.measured * known // entry.count
                entry.total = entry.total * known // entry.count
                entry.count = known


def spread(entries: Collection[Entry]) -> Spread:
    """Compute the spread of the durations of all entries."""
    size = sum(entry.measured for entry in entries)
    if not size:
        return Spread()
    least = min(entry.least for entry in entries)
    most = max(entry.most for entry in entries)
    buckets = np.concatenate([part for entry in entries for part in entry.buckets]).astype(np.int64)
    numbers = np.concatenate([part for entry in entries for part in entry.numbers])
    lowest = int(np.min(buckets))
    # The number of durations in each bucket and all lower ones.
    below = Series(np.bincount(buckets - lowest, numbers)).cumsum().to_numpy()

    def of_rank(rank: int) -> float:
        if rank <= 0:
            return least
        if rank >= size - 1:
            return most
        return min(max(seconds_of(lowest + int(below.searchsorted(rank, "right"))), least), most)

    def quantile(part: float) -> float:
        rank = part * (size - 1)
        low = of_rank(int(rank))
        return low + (rank - int(rank)) * (of_rank(int(rank) + 1) - low)

    average = sum(entry.total for entry in entries) / NANOSECONDS / size
    p50, p95, p99 = map(quantile, _QUANTILES)
    return Spread(least, min(max(average, least), most), p50, p95, p99, most)
