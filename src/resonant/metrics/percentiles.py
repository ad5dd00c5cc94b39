"""The store's sketches as data frames, and percentiles of their durations.

A percentile is interpolated between the two nearest ranks, as numpy does by default. Each rank is accurate to 1 %, so the
percentile is too. The lowest and the highest rank are exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, Series, concat

from resonant.store.counts.sketches import NANOSECONDS, Labels, Packed, seconds_of

SPREAD = ("min", "avg", "p50", "p95", "p99", "max")
_QUANTILES = np.array([[0.5], [0.95], [0.99]])
_HOUR = 3600
_ALL_HOURS = -1
_ENTRY = ["hour", "label", "count", "total", "least", "most", "width"]
# A sketch or a series, and a bucket of up to 10 ** 17 seconds, are one integer: pandas groups it faster than two columns.
_WIDTH, _ZERO = 4096, 2048


class SketchWindow(NamedTuple):
    """The sketches of a window, merged in two ways: over all hours, and for each hour over endpoints and event types.

    Attributes:
        counts: a row for each merged sketch: its labels, or its ``hour`` and its other labels, its ``count``, how many of these
            were ``measured``, their sum ``total`` in nanoseconds, so that adding is exact for months, and their minimum
            ``least`` and maximum ``most``.
        buckets: a row for each bucket: the index of its ``sketch`` in ``counts``, the ``bucket``, and the ``number`` of values
            in it.
    """

    counts: DataFrame
    buckets: DataFrame


def read_window(rows: Iterable[Packed]) -> SketchWindow:
    """Return the sketches of these rows."""
    labels: dict[tuple[str | None, ...], int] = {}
    entries = []
    buckets, numbers = [np.empty(0, "<i2")], [np.empty(0, "<u4")]
    for row in rows:
        hour = row.minute // _HOUR * _HOUR
        size = len(row.buckets) // 6
        buckets.append(np.frombuffer(row.buckets, "<i2", size))
        numbers.append(np.frombuffer(row.buckets, "<u4", size, offset=2 * size))
        for *of, count, total, least, most, width in json.loads(row.entries):
            entries.append(
                (hour, labels.setdefault(tuple(of), len(labels)), count, total, least, most, width)
            )
    each = DataFrame(np.array(entries, float).reshape(-1, len(_ENTRY)), columns=_ENTRY)
    without = [labels.setdefault((of[0], None, None, *of[3:]), len(labels)) for of in list(labels)]
    by_hour = each.assign(label=np.array(without, int)[each["label"].astype(int)])
    same = concat([each.assign(hour=_ALL_HOURS), by_hour]).groupby(["hour", "label"])
    counts = (
        same[["count", "total"]]
        .sum()
        .assign(least=same["least"].min(), most=same["most"].max())
        .reset_index()
    )
    widths, bucket = each["width"].astype(int), np.concatenate(buckets).astype(int) + _ZERO
    number = Series(np.concatenate(numbers).astype(float))
    # One call for each way: together, they would not fit into a processor's cache.
    ways = np.split(same.ngroup().to_numpy() * _WIDTH, 2)
    merged = concat([number.groupby(np.repeat(way, widths) + bucket, sort=False).sum() for way in ways])
    sketch, bucket = np.divmod(merged.index.to_numpy(), _WIDTH)
    counts = counts.assign(
        hour=counts["hour"].where(counts["hour"] != _ALL_HOURS),
        count=counts["count"].astype(int),
        measured=np.bincount(sketch, merged, minlength=len(counts)).astype(int),
    )
    return SketchWindow(
        counts.join(DataFrame(list(labels), columns=Labels._fields, dtype=object), on="label"),
        DataFrame({"sketch": sketch, "bucket": bucket - _ZERO, "number": merged.to_numpy()}),
    )


def spreads(
    window: SketchWindow, kinds: Mapping[str, Series[bool]], groups: Sequence[NDArray[np.int_]]
) -> DataFrame:
    """Compute minimum, average, percentiles and maximum of values, for each group of sketches that has any.

    Args:
        window: the sketches.
        kinds: which rows of ``window.counts`` are of a kind, by the prefix of the columns to return.
        groups: numbers of groups, for the index: each array has one for each row of ``window.counts``, or -1 for none.
    """
    counts, buckets = window.counts, window.buckets
    kind = np.select(list(kinds.values()), range(len(kinds)), -1)
    is_measured = (kind >= 0) & (counts["measured"] > 0)
    # The series of values: one for each group and kind.
    of = [np.where(is_measured & (group >= 0), group * len(kinds) + kind, -1) for group in groups]
    series = np.concatenate(of)
    sums = concat([counts[["total", "measured", "least", "most"]]] * len(of))[series >= 0]
    same = sums.groupby(series[series >= 0])
    sums = same[["total", "measured"]].sum()
    least, most = same["least"].min().to_numpy(), same["most"].max().to_numpy()
    total, size = sums.to_numpy().T
    # The values of all series, one series after the other.
    places = np.concatenate([each[buckets["sketch"]] * _WIDTH + buckets["bucket"] + _ZERO for each in of])
    values = concat([buckets["number"]] * len(of))[places >= 0].groupby(places[places >= 0]).sum()
    running, bucket = values.cumsum().to_numpy(), values.index.to_numpy() % _WIDTH - _ZERO
    rank = _QUANTILES * (size - 1)
    low = np.floor(rank)
    ranks = np.stack([low, low + 1])
    # A value's bucket is the first that has, with all earlier ones, more values than its rank.
    place = np.searchsorted(running, size.cumsum() - size + ranks, side="right").clip(max=len(bucket) - 1)
    seconds = (
        Series(bucket[place.ravel()]).map(seconds_of).to_numpy(float).reshape(place.shape).clip(least, most)
    )
    seconds = np.where(ranks <= 0, least, np.where(ranks >= size - 1, most, seconds))
    percentiles = seconds[0] + (rank - low) * (seconds[1] - seconds[0])
    spread = np.stack([least, (total / NANOSECONDS / size).clip(least, most), *percentiles, most], axis=1)
    # A row for each group, with the columns of all kinds.
    group, row = np.unique(sums.index // len(kinds), return_inverse=True)
    table = np.full((len(group), len(kinds), len(SPREAD)), np.nan)
    table[row, sums.index % len(kinds)] = spread
    names = [f"{kind}_{each}" for kind in kinds for each in SPREAD]
    return DataFrame(table.reshape(len(group), len(names)), group, names)
