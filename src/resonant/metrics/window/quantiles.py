"""Exact quantiles of values in several sorted runs, without merging the runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Up to this many values, merging the runs is faster than narrowing them down.
_FEW = 2_048
_SAMPLES = 32


def quantiles_of(runs: Sequence[Floats], quantiles: Sequence[float]) -> list[float]:
    """Return quantiles of all values, linearly interpolated, as numpy does by default."""
    size = sum(map(len, runs))
    if size <= _FEW:
        together = np.sort(np.concatenate(runs))
        runs = [together]
    found = []
    for quantile in quantiles:
        place = quantile * (size - 1)
        low = _select(runs, int(place))
        part = place - int(place)
        found.append(low + part * (_next(runs, low, int(place) + 1) - low) if part else low)
    return found


def _next(runs: Sequence[Floats], value: float, rank: int) -> float:
    """Return the value with this rank; ``value`` has the rank before it."""
    places = [int(run.searchsorted(value, "right")) for run in runs]
    if sum(places) > rank:
        return value
    return min(float(run[place]) for run, place in zip(runs, places, strict=True) if place < len(run))


def _select(runs: Sequence[Floats], rank: int) -> float:
    """Return the value with this rank, from 0, among all values of sorted runs.

    Samples of each run bound the wanted value from both sides. Values outside the bounds are dropped, until few are left.
    """
    while len(runs) > 1 and sum(map(len, runs)) > _FEW:
        steps = [-(-len(run) // _SAMPLES) for run in runs]
        samples = np.concatenate([run[::step] for run, step in zip(runs, steps, strict=True)])
        weights = np.repeat(steps, [-(-len(run) // step) for run, step in zip(runs, steps, strict=True)])
        order = np.argsort(samples)
        samples = samples[order]
        # Bounds of the number of values up to each sample; they differ by at most a step of each run.
        at_most = np.cumsum(weights[order])
        at_least = at_most - sum(step - 1 for step in steps)
        above = int(at_least.searchsorted(rank, "right"))
        highest = samples[above] if above < len(samples) else max(run[-1] for run in runs)
        below = int(at_most.searchsorted(rank, "right"))
        # Equal samples count together, so begin before the first of them.
        below = int(samples.searchsorted(samples[below], "left")) if below < len(samples) else below
        starts = [0] * len(runs)
        if below:
            starts = [int(run.searchsorted(samples[below - 1], "right")) for run in runs]
        stops = [int(run.searchsorted(highest, "left")) for run in runs]
        left_out = sum(starts)
        if sum(max(start, stop) for start, stop in zip(starts, stops, strict=True)) <= rank:
            return float(highest)
        rank -= left_out
        runs = [run[start:stop] for run, start, stop in zip(runs, starts, stops, strict=True) if start < stop]
    if len(runs) == 1:
        return float(runs[0][rank])
    return float(np.partition(np.concatenate(runs), rank)[rank])
