"""Percentiles of the store's sketches: group the buckets, cumulate their counts, and look up the ranks.

A percentile is interpolated between the two nearest ranks, as numpy does by default. Each rank is accurate to 1 %, so the
percentile is too. The lowest and the highest rank are exact.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pandas import DataFrame

from resonant.store.sketches import Labels, seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from resonant.store.sketches import Packed

K = TypeVar("K")

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


@dataclass(frozen=True, slots=True)
class Entry:
    """The sums of one hour, without the buckets; see ``store.counters`` for the labels, ``store.sketches`` for the sums.

    Attributes:
        measured: how many of ``count`` have a duration.
        total: the sum of the durations, in nanoseconds, so that the order of additions does not matter.
    """

    hour: int
    measure: str
    endpoint: str
    event_type: str
    result: str
    category: str
    code: str
    detail: str
    count: int
    measured: int
    total: int
    least: float | None
    most: float | None


class Sketches:
    """The sketches of a window, added up by hour and labels."""

    def __init__(self, rows: Iterable[Packed]) -> None:
        sums: dict[tuple[int, Labels], list[Any]] = {}
        places: dict[tuple[int, Labels], int] = {}
        # One entry per bucket: index of its sketch, bucket number, count.
        owners: list[int] = []
        widths: list[int] = []
        buckets, numbers = [np.empty(0, "<i2")], [np.empty(0, "<u4")]
        for row in rows:
            hour = row.minute // _HOUR * _HOUR
            for *labels, count, total, least, most, width in json.loads(row.entries):
                key = (hour, Labels(*labels))
                place = places.setdefault(key, len(places))
                owners.append(place)
                widths.append(width)
                if (known := sums.get(key)) is None:
                    sums[key] = [count, total, least, most]
                    continue
                known[0] += count
                known[1] += total
                known[2] = _extreme(min, known[2], least)
                known[3] = _extreme(max, known[3], most)
            size = len(row.buckets) // 6
            buckets.append(np.frombuffer(row.buckets, "<i2", size))
            numbers.append(np.frombuffer(row.buckets, "<u4", size, offset=2 * size))
        self._owners = np.repeat(np.array(owners, dtype=np.int64), np.array(widths, dtype=np.int64))
        self._buckets = np.concatenate(buckets).astype(np.int64)
        self._numbers = np.concatenate(numbers).astype(np.float64)
        measured = np.bincount(self._owners, self._numbers, minlength=len(places))
        self.entries = _without_unknown_replays(
            Entry(hour, *labels, count, int(number), total, least, most)
            for ((hour, labels), (count, total, least, most)), number in zip(
                sums.items(), measured, strict=True
            )
        )

    def spreads(
        self, measure: str, key: Callable[[Entry], K], *, result: str | None = None
    ) -> dict[K, tuple[int, Spread]]:
        """Return, for each group, the number of durations of a measure and their spread.

        Args:
            measure: see ``store.counters``.
            key: returns the group of an entry.
            result: only entries with this result.
        """
        groups: dict[K, list[Entry]] = {}
        codes = np.full(len(self.entries), -1)
        known: dict[K, int] = {}
        for place, entry in enumerate(self.entries):
            if entry.measure == measure and entry.measured and result in (None, entry.result):
                group = key(entry)
                codes[place] = known.setdefault(group, len(known))
                groups.setdefault(group, []).append(entry)
        if not groups:
            return {}
        of_group = codes[self._owners]
        is_chosen = of_group >= 0
        buckets: NDArray[np.int64] = self._buckets[is_chosen]
        lowest = int(np.min(buckets))
        width = int(np.max(buckets)) - lowest + 1
        cells = of_group[is_chosen] * width + buckets - lowest
        counts = np.bincount(cells, self._numbers[is_chosen], minlength=len(groups) * width)
        seconds = np.array([seconds_of(bucket) for bucket in range(lowest, lowest + width)])
        below = DataFrame(counts.reshape(len(groups), width)).cumsum(axis="columns").to_numpy()
        return {
            group: (sum(entry.measured for entry in entries), _spread(entries, row, seconds))
            for (group, entries), row in zip(groups.items(), below, strict=True)
        }


def _without_unknown_replays(entries: Iterable[Entry]) -> list[Entry]:
    """Limit replays to the number of dead letters counted in the same hour.

    An earlier version, or a process with rollups off, did not count its dead letters here. Their replays must not be
    subtracted from other dead letters.
    """
    known = list(entries)
    dead: Counter[tuple[int, str, str, str]] = Counter()
    for entry in known:
        if entry.measure == "delivery" and entry.result == "dead_letter":
            dead[entry.hour, entry.endpoint, entry.event_type, entry.detail] += entry.count
    for place, entry in enumerate(known):
        if entry.measure == "replayed":
            of = (entry.hour, entry.endpoint, entry.event_type, entry.detail)
            count = min(entry.count, dead[of])
            dead[of] -= count
            if count < entry.count:
                measured = entry.measured * count // entry.count
                total = entry.total * count // entry.count
                known[place] = replace(entry, count=count, measured=measured, total=total)
    return known


def _spread(entries: list[Entry], below: NDArray[np.float64], seconds: NDArray[np.float64]) -> Spread:
    """Compute a spread.

    Args:
        entries: the sums of the group.
        below: the number of durations in each bucket and all lower ones.
        seconds: the duration that represents each bucket.
    """
    size = sum(entry.measured for entry in entries)
    least = min(entry.least for entry in entries if entry.least is not None)
    most = max(entry.most for entry in entries if entry.most is not None)

    def of_rank(rank: int) -> float:
        if rank <= 0:
            return least
        if rank >= size - 1:
            return most
        bucket = int(below.searchsorted(rank, "right"))
        return min(max(float(seconds[bucket]), least), most)

    def quantile(part: float) -> float:
        rank = part * (size - 1)
        low = of_rank(int(rank))
        return low + (rank - int(rank)) * (of_rank(int(rank) + 1) - low)

    average = sum(entry.total for entry in entries) / NANOSECONDS / size
    p50, p95, p99 = map(quantile, _QUANTILES)
    return Spread(least, min(max(average, least), most), p50, p95, p99, most)


def _extreme(of: Callable[[float, float], float], one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return of(one, other)
