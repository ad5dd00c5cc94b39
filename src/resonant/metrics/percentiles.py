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
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from pandas import Series

    from resonant.store.counts.sketches import Packed

SPREAD = ("min", "avg", "p50", "p95", "p99", "max")
_QUANTILES = (0.5, 0.95, 0.99)
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
    columns = ["hour", *Labels._fields, "count", "total", "least", "most"]
    frame = DataFrame(counts, columns=columns, dtype=object)
    sketch = np.repeat(np.arange(len(counts)), widths)
    number = np.concatenate(numbers).astype(float)
    frame["measured"] = np.bincount(sketch, number, minlength=len(counts))
    types = {"hour": int, "count": int, "measured": int, "total": float, "least": float, "most": float}
    return Window(frame.astype(types), sketch, np.concatenate(buckets).astype(int), number)


def spreads(window: Window, kinds: Mapping[str, Series[bool]], by: str | list[str]) -> DataFrame:
    """Compute minimum, average, percentiles and maximum of values, for each group of sketches that has any.

    Args:
        window: the sketches.
        kinds: which rows of ``window.counts`` are of a kind, by the prefix of the columns to return.
        by: columns of ``window.counts`` that define the groups.
    """
    groups = window.counts.groupby(by)
    names, key = groups.size().index, groups.ngroup().fillna(-1).to_numpy(int)
    # Each group has a place for each kind.
    place = np.full(len(key), -1)
    for number, are in enumerate(kinds.values()):
        place = np.where(are & (key >= 0), key * len(kinds) + number, place)
    counts, places = window.counts[place >= 0], len(names) * len(kinds)
    placed = place[place >= 0]
    least, most = np.full(places, np.inf), np.full(places, -np.inf)
    np.fmin.at(least, placed, counts["least"])
    np.fmax.at(most, placed, counts["most"])
    total = np.bincount(placed, counts["total"], minlength=places)
    values = _values(window, place)
    running, seconds = values["number"].cumsum().to_numpy(), values["bucket"].map(seconds_of).to_numpy()
    size = np.bincount(values["place"], values["number"], minlength=places)
    is_any = size > 0
    # The number of values in all lower places.
    before = (np.cumsum(size) - size)[is_any]
    least, most, size = least[is_any], most[is_any], size[is_any]

    def of_rank(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        # A value's bucket is the first that has, with all earlier ones, more values than its rank.
        found = np.searchsorted(running, before + ranks, side="right")
        value = seconds[np.minimum(found, len(seconds) - 1)].clip(least, most)
        return np.where(ranks <= 0, least, np.where(ranks >= size - 1, most, value))

    found = np.full((places, len(SPREAD)), np.nan)
    average = (total[is_any] / NANOSECONDS / size).clip(least, most)
    percentiles = []
    for part in _QUANTILES:
        rank = part * (size - 1)
        low = np.floor(rank)
        percentiles.append(of_rank(low) + (rank - low) * (of_rank(low + 1) - of_rank(low)))
    found[is_any] = np.column_stack([least, average, *percentiles, most])
    columns = [f"{kind}_{each}" for kind in kinds for each in SPREAD]
    return DataFrame(found.reshape(len(names), len(columns)), index=names, columns=columns)


def _values(window: Window, place: NDArray[np.int64]) -> DataFrame:
    """Return how many values each place has in each bucket, in this order."""
    values = DataFrame({"place": place[window.sketch], "bucket": window.bucket, "number": window.number})
    return values[values["place"] >= 0].groupby(["place", "bucket"])["number"].sum().reset_index()
