"""The store's sketches as data frames, and percentiles of their durations.

A percentile is interpolated between the two nearest ranks, as numpy does by default. Each rank is accurate to 1 %, so the
percentile is too. The lowest and the highest rank are exact.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pandas import DataFrame

from resonant.store.counts.sketches import NANOSECONDS, Labels, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from pandas import Series

    from resonant.store.counts.sketches import Packed

SPREAD = ("min", "avg", "p50", "p95", "p99", "max")
_QUANTILES = np.array([0.5, 0.95, 0.99])
_HOUR = 3600


class Window(NamedTuple):
    """The sketches of a window.

    Attributes:
        counts: a row for each sketch: its ``hour``, its labels, its ``count``, how many of these were ``measured``, their sum
            ``total`` in nanoseconds, so that adding is exact for months, and their minimum ``least`` and maximum ``most``.
        sketch, bucket, number: one item for each bucket: the position of its sketch in ``counts``, the bucket, and the number of
            values in it.
    """

    counts: DataFrame
    sketch: NDArray[np.int64]
    bucket: NDArray[np.int64]
    number: NDArray[np.float64]


def read_window(rows: Iterable[Packed]) -> Window:
    """Return the sketches of these rows."""
    counts, widths = [], []
    buckets, numbers = [np.empty(0, "<i2")], [np.empty(0, "<u4")]
    for row in rows:
        hour = row.minute // _HOUR * _HOUR
        size = len(row.buckets) // 6
        buckets.append(np.frombuffer(row.buckets, "<i2", size))
        numbers.append(np.frombuffer(row.buckets, "<u4", size, offset=2 * size))
        for *labels, count, total, least, most, width in json.loads(row.entries):
            counts.append((hour, *labels, count, total, least, most))
            widths.append(width)
    frame = DataFrame(counts, columns=["hour", *Labels._fields, "count", "total", "least", "most"])
    sketch = np.repeat(np.arange(len(counts)), widths)
    number = np.concatenate(numbers).astype(float)
    frame["measured"] = np.bincount(sketch, number, minlength=len(counts))
    types = {"hour": int, "count": int, "measured": int, "total": float, "least": float, "most": float}
    return Window(frame.astype(types), sketch, np.concatenate(buckets).astype(int), number)


def spreads(window: Window, are: Series[bool], by: list[str]) -> DataFrame:
    """Compute minimum, average, percentiles and maximum of the values of some sketches, for each group of them.

    Args:
        window: the sketches.
        are: which rows of ``window.counts``.
        by: columns of ``window.counts``.
    """
    counts = window.counts[are & (window.counts["measured"] > 0)]
    if counts.empty:
        return DataFrame(columns=SPREAD, index=counts.set_index(by).index, dtype=float)
    groups = counts.groupby(by)
    sums, least, most = groups[["measured", "total"]].sum(), groups["least"].min(), groups["most"].max()
    group = np.full(len(window.counts), -1)
    group[counts.index] = groups.ngroup()
    of_bucket = group[window.sketch]
    is_used = of_bucket >= 0
    bucket = window.bucket[is_used]
    lowest, width = int(np.min(bucket)), int(np.ptp(bucket)) + 1
    numbers = np.bincount(
        of_bucket[is_used] * width + bucket - lowest, window.number[is_used], minlength=len(sums) * width
    )
    # How many values of each group are in each bucket and all lower ones.
    below = numbers.reshape(len(sums), width).cumsum(axis=1)
    seconds = np.array([seconds_of(each) for each in range(lowest, lowest + width)])
    size, lower, upper = (each.to_numpy()[:, None] for each in (sums["measured"], least, most))

    def of_rank(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        # The bucket of the value with this rank is the first with more values below its end.
        place = [np.searchsorted(*each, side="right") for each in zip(below, ranks, strict=True)]
        found = seconds[np.minimum(place, width - 1)].clip(lower, upper)
        return np.where(ranks <= 0, lower, np.where(ranks >= size - 1, upper, found))

    rank = _QUANTILES * (size - 1)
    low = np.floor(rank)
    percentiles = of_rank(low) + (rank - low) * (of_rank(low + 1) - of_rank(low))
    average = (sums["total"] / NANOSECONDS / sums["measured"]).clip(least, most)
    return DataFrame(
        np.column_stack([least, average, percentiles, most]), columns=list(SPREAD), index=sums.index
    )
