"""Percentiles of sketches are those of numpy within 1 %, however the durations were spread over transactions and hours."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame

from resonant.metrics.percentiles import SPREAD
from resonant.metrics.statistics import statistics
from resonant.store.counts import sketches
from resonant.store.counts.counters import Tally
from support.examples import examples
from support.metrics import plain

HOUR = 3600
HOURS = 24
SHAPES = {
    "uniform": lambda rng, size: rng.uniform(0.01, 1, size),
    "bimodal": lambda rng, size: np.where(rng.random(size) < 0.5, rng.normal(0.01, 0.001, size), 5.0).clip(0),
    "heavy tail": lambda rng, size: rng.pareto(1.1, size) * 0.001,
    "all equal": lambda rng, size: np.full(size, rng.uniform(0.001, 10)),
    "zero": lambda _rng, size: np.zeros(size),
    "tiny": lambda rng, size: rng.uniform(1e-8, 1e-6, size),
}


def rows_of(durations, *, transactions):
    """Count durations in so many transactions, spread over a day."""
    parts = []
    for number, part in enumerate(np.array_split(durations, transactions)):
        tally = Tally(number * HOURS * HOUR / transactions)
        tally.add_all("attempt", "orders", "t", "delivered", part.tolist())
        parts.append(sketches.pack(tally.minute, tally.sketches()))
    return parts


def latency_of(rows):
    found = statistics(rows, [], since=0, until=HOURS * HOUR).overall[[f"latency_{name}" for name in SPREAD]]
    return dict(zip(SPREAD, found.iloc[0], strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 40, 5_000])
def test_percentiles_of_each_distribution_are_those_of_numpy_within_one_percent(shape, size):
    durations = SHAPES[shape](np.random.default_rng(17), size)
    found = latency_of(rows_of(durations, transactions=min(size, 50)))
    p50, p95, p99 = np.percentile(durations, [50, 95, 99])
    assert (found["min"], found["max"]) == (durations.min(), durations.max())
    assert found["avg"] == pytest.approx(durations.mean(), rel=1e-9, abs=1e-9)
    assert (found["p50"], found["p95"], found["p99"]) == pytest.approx((p50, p95, p99), rel=0.01, abs=0)


@settings(max_examples=examples(40))
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_percentiles_of_any_durations_are_those_of_numpy_within_one_percent(durations):
    found = latency_of(rows_of(np.array(durations), transactions=3))
    p50, p95, p99 = np.percentile(durations, [50, 95, 99])
    # Less than a nanosecond counts as zero.
    assert (found["p50"], found["p95"], found["p99"]) == pytest.approx((p50, p95, p99), rel=0.01, abs=1e-9)


def test_each_endpoint_event_type_and_hour_has_the_percentiles_of_its_durations():
    rng = np.random.default_rng(17)
    names = {
        "endpoint": ["crm", "orders", "shop"],
        "event_type": ["paid", "sent"],
        "hour": [0, HOUR, 5 * HOUR],
    }
    size = 1_000
    given = DataFrame({name: rng.choice(values, size) for name, values in names.items()})
    given["seconds"] = rng.pareto(1.1, size) * (1 + given.groupby(list(names)).ngroup())
    tallies = {hour: Tally(hour) for hour in names["hour"]}
    for endpoint, event_type, hour, seconds in given.itertuples(index=False):
        tallies[hour].add("attempt", endpoint, event_type, "delivered", seconds=seconds)
    rows = [sketches.pack(tally.minute, tally.sketches()) for tally in tallies.values()]
    found = statistics(rows, [], since=0, until=5 * HOUR)
    for name, table in zip(names, (found.by_endpoint, found.by_event_type, found.hourly), strict=True):
        for value, of in given.groupby(name)["seconds"]:
            expected = [of.min(), *np.percentile(of, [50, 95, 99]), of.max()]
            columns = [f"latency_{each}" for each in ("min", "p50", "p95", "p99", "max")]
            assert table.loc[value, columns].tolist() == pytest.approx(expected, rel=0.01), (name, value)


@settings(max_examples=examples(40))
@given(st.data())
def test_merging_rows_in_any_order_changes_nothing(data):
    size = data.draw(st.integers(1, 100))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    durations = SHAPES[data.draw(st.sampled_from(list(SHAPES)))](rng, size)
    rows = rows_of(durations, transactions=min(size, 50))
    by_hour = defaultdict(list)
    for row in data.draw(st.permutations(rows)):
        by_hour[row.minute // HOUR * HOUR].append(row)
    merged = []
    for hour, of_hour in by_hour.items():
        cut = data.draw(st.integers(0, len(of_hour)))
        first = [sketches.merge(hour, of_hour[:cut])] if cut else []
        merged.append(sketches.merge(hour, first + of_hour[cut:]))
    expected = statistics(rows, [], since=0, until=HOURS * HOUR)
    assert plain(statistics(merged, [], since=0, until=HOURS * HOUR)) == plain(expected)
