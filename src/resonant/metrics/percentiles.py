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

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
SPREAD = ("min", "avg", *_QUANTILES, "max")
_HOUR = 3600


class Window(NamedTuple):
    """The sketches of a window.

    Attributes:
        counts: a row for each sketch: its ``hour``, its labels, its ``count``, how many of these were ``measured``, their sum
            ``total`` in nanoseconds, so that adding is exact for months, and their minimum ``least`` and maximum ``most``.
        buckets: a row for each bucket: the index of its ``sketch`` in ``counts``, the ``bucket``, and the ``number`` of values
            in it.
    """

    counts: DataFrame
    buckets: DataFrame


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
    bucket = np.concatenate(buckets).astype(int)
    return Window(frame.astype(types), DataFrame({"sketch": sketch, "bucket": bucket, "number": number}))


def spreads(window: Window, kinds: Mapping[str, Series[bool]], by: list[str]) -> DataFrame:
    """Compute minimum, average, percentiles and maximum of values, for each group of sketches that has any.

    Args:
        window: the sketches.
        kinds: which rows of ``window.counts`` are of a kind, by the prefix of the columns to return.
        by: columns of ``window.counts`` that define the groups.
    """
    kind = np.select(list(kinds.values()), list(kinds), "")
    measured = window.counts.assign(kind=kind)[(kind != "") & (window.counts["measured"] > 0)]
    groups = measured.groupby([*by, "kind"])
    found = groups.agg({"least": "min", "most": "max", "total": "sum", "measured": "sum"})
    least, most, total, size = found.to_numpy().T
    # The values of all groups, one group after the other.
    buckets = window.buckets.assign(group=window.buckets["sketch"].map(groups.ngroup()))
    values = buckets.groupby(["group", "bucket"])["number"].sum().reset_index()
    running, seconds = values["number"].cumsum().to_numpy(), values["bucket"].map(seconds_of).to_numpy()
    before = size.cumsum() - size

    def of_rank(rank: NDArray[np.float64]) -> NDArray[np.float64]:
        # A value's bucket is the first that has, with all earlier ones, more values than its rank.
        place = np.searchsorted(running, before + rank, side="right")
        value: NDArray[np.float64] = seconds[np.minimum(place, len(seconds) - 1)].clip(least, most)
        value = np.where(rank >= size - 1, most, value)
        return np.where(rank <= 0, least, value)

    columns = {"min": least, "avg": (total / NANOSECONDS / size).clip(least, most)}
    for name, part in _QUANTILES.items():
        rank = part * (size - 1)
        low = np.floor(rank)
        columns[name] = of_rank(low) + (rank - low) * (of_rank(low + 1) - of_rank(low))
    table = DataFrame(columns | {"max": most}, found.index).unstack("kind")  # noqa: PD010 - pivot_table aggregates
    names = {f"{kind}_{each}": (each, kind) for kind in kinds for each in SPREAD}
    return DataFrame(table, columns=list(names.values())).set_axis(list(names), axis="columns")
