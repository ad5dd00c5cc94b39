"""The store's counters and gauges, and a window's percentiles, as Prometheus metrics in their own registry.

Labels are bounded: endpoint names, and fixed words of the classifier and the queue, but no ids, URLs or error messages.
Counters of a known endpoint start at 0, so that the first increase is visible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from resonant.events import Status
from resonant.store.counts.sketches import BOUNDS, NANOSECONDS, Labels, Sketch
from resonant.store.shared.gates import Gate, GateState

if TYPE_CHECKING:
    from resonant.metrics.statistics import Statistics
    from resonant.metrics.totals import Totals


class _Collected(Collector):
    """Returns metrics that were read before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def registry_of(totals: Totals, statistics: Statistics) -> CollectorRegistry:
    """Return a registry with only these metrics: counters, gauges, and percentiles of the window's statistics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*_counters(totals), *_histograms(totals), *_gauges(totals, statistics)]))
    return registry


def to_text(registry: CollectorRegistry) -> str:
    """Return the registry in the Prometheus text format, version 0.0.4."""
    return prometheus_client.generate_latest(registry).decode()


def _counters(totals: Totals) -> Iterator[Metric]:
    yield _family(
        "resonant_events_accepted_total",
        "Deliveries accepted: one per event and endpoint, regardless of its attempts.",
        totals.accepted,
        kind=CounterMetricFamily,
    )
    yield _counter(
        "resonant_delivery_outcomes_total",
        "Deliveries that ended: delivered, or given up as a dead letter. "
        "A replayed delivery ends again; an attempt that is retried does not count.",
        totals,
        lambda of: of.measure == "delivery",
        labels=("outcome",),
        key=lambda of: (of.result,),
        zeros=[("delivered",), ("dead_letter",)],
    )
    yield _counter(
        "resonant_delivery_attempts_total",
        "Attempts, including retries: delivered, failed, or lost with their worker. "
        "Category and code are the classifier's verdict on a failure.",
        totals,
        lambda of: of.measure == "attempt",
        labels=("result", "category", "code"),
        key=lambda of: (of.result, of.category, of.code),
        zeros=[("delivered", "", "")],
    )
    yield _counter(
        "resonant_dead_letter_replays_total",
        "Dead letters that an operator replayed.",
        totals,
        lambda of: of.measure == "replay",
    )
    yield _counter(
        "resonant_dead_letter_purges_total",
        "Dead letters removed permanently, by retention or by an operator.",
        totals,
        lambda of: of.measure == "purge" and of.result == "dead_letter",
    )


def _histograms(totals: Totals) -> Iterator[Metric]:
    yield _histogram(
        "resonant_delivery_attempt_duration_seconds",
        "Duration of an attempt, from the start of the request to the answer or failure. "
        "Attempts lost with their worker are not included.",
        totals,
        lambda of: of.measure == "attempt" and of.result != "lost",
    )
    yield _histogram(
        "resonant_delivery_end_to_end_duration_seconds",
        "Time from the acceptance of an event to its delivery, including all retries and waits.",
        totals,
        lambda of: of.measure == "delivery" and of.result == "delivered",
    )
    yield _histogram(
        "resonant_delivery_retry_delay_seconds",
        "Delay before a retry, spent in the worker or parked in the store.",
        totals,
        lambda of: of.measure == "delay",
    )


def _gauges(totals: Totals, statistics: Statistics) -> Iterator[Metric]:
    yield _family(
        "resonant_delivery_latency_percentile_seconds",
        "Percentiles of the duration of an attempt over the exporter's window (24 hours by default), with an error "
        "below 1 %; absent if there was no attempt.",
        _percentiles(statistics, "latency"),
        ("endpoint", "percentile"),
    )
    yield _family(
        "resonant_delivery_first_attempt_percentile_seconds",
        "Percentiles of the time from the acceptance of an event to its first attempt, over the same window.",
        _percentiles(statistics, "first_attempt"),
        ("endpoint", "percentile"),
    )
    none = {(endpoint, status): 0 for endpoint in totals.endpoints for status in get_args(Status)}
    yield _family(
        "resonant_deliveries",
        "Deliveries in the store now, by status: pending was never tried, retrying will be tried again, "
        "delivered and dead_letter are final.",
        none | totals.deliveries,
        ("endpoint", "status"),
    )
    yield _family(
        "resonant_dead_letters",
        "Dead letters in the store now, by the category of their last failure and the reason they were given up.",
        totals.dead_letters,
        ("endpoint", "category", "reason"),
    )
    yield _family(
        "resonant_oldest_due_timestamp_seconds",
        "Earliest due time of an unfinished delivery; absent if there is none. "
        "A time far in the past means that no worker sends, or that a gate holds the delivery. Failing event types are excluded "
        "unless the gate paces or stops the endpoint.",
        totals.oldest_due_at,
    )
    yield _family(
        "resonant_last_claim_timestamp_seconds",
        "Time when a worker last claimed deliveries, noted every few seconds; absent before the first claim.",
        totals.last_seen_at,
    )
    yield _family(
        "resonant_dead_letter_oldest_timestamp_seconds",
        "Time when the oldest dead letter was given up, without cancelled ones and acknowledged causes; absent if there is none.",
        totals.oldest_dead_at,
    )
    gates = {name: Gate(name) for name in totals.endpoints} | totals.gates
    yield _family(
        "resonant_endpoint_state",
        "State of the endpoint's gate: 1 for the current state, 0 for the others. Normal sends freely, probing sends only "
        "probes, paced sends at a limited rate, paused sends nothing.",
        {
            (name, each): int(gate.state == each)
            for name, gate in gates.items()
            for each in get_args(GateState)
        },
        ("endpoint", "state"),
    )
    yield _family(
        "resonant_endpoint_pace_per_second",
        "Sends per second that the gate allows now; absent unless the endpoint is paced.",
        {name: gate.pace for name, gate in gates.items() if gate.state == "paced" and gate.pace is not None},
    )
    yield _family(
        "resonant_endpoint_failing_types",
        "Event types that fail while others work: the endpoint's gate holds them, except for probes.",
        {name: len(gate.failing_at(totals.taken_at)) for name, gate in gates.items()},
    )
    yield _family(
        "resonant_deliveries_held",
        "Deliveries that are due and held by the endpoint's gate.",
        dict.fromkeys(gates, 0) | totals.held,
    )
    yield _family(
        "resonant_endpoint_gone_timestamp_seconds",
        "Time when the endpoint answered 410 Gone and was paused; absent unless it is paused for that reason.",
        {name: gate.since for name, gate in gates.items() if gate.is_gone},
    )
    yield _family(
        "resonant_last_export_timestamp_seconds",
        "Time when these metrics were read from the store. An old time means that the exporter has stopped.",
        {(): totals.taken_at},
        (),
    )


def _percentiles(statistics: Statistics, of: str) -> dict[tuple[str, str], float]:
    """Return percentiles of durations by endpoint and name, without those that are unknown."""
    return {
        (str(endpoint), name): seconds
        for name in ("p50", "p95", "p99")
        for endpoint, seconds in statistics.by_endpoint[f"{of}_{name}"].dropna().items()
    }


def _counter(
    name: str,
    text: str,
    totals: Totals,
    is_counted: Callable[[Labels], bool],
    *,
    labels: tuple[str, ...] = (),
    key: Callable[[Labels], tuple[str, ...]] = lambda _of: (),
    zeros: Iterable[tuple[str, ...]] = ((),),
) -> Metric:
    """Return a counter by endpoint. ``key`` returns the values of the other labels, and those of ``zeros`` start at 0."""
    counts = Counter({(endpoint, *each): 0 for endpoint in totals.endpoints for each in zeros})
    for of, sketch in totals.counted.items():
        if is_counted(of):
            counts[of.endpoint, *key(of)] += sketch.count
    return _family(name, text, counts, ("endpoint", *labels), CounterMetricFamily)


def _histogram(name: str, text: str, totals: Totals, is_measured: Callable[[Labels], bool]) -> Metric:
    sums = {endpoint: Sketch() for endpoint in totals.endpoints}
    for of, sketch in totals.counted.items():
        if is_measured(of):
            sums.setdefault(of.endpoint, Sketch()).add(sketch)
    family = HistogramMetricFamily(name, text, labels=("endpoint",))
    for endpoint, sketch in sorted(sums.items()):
        numbers = sketch.by_bound()
        below = accumulate(numbers[bound] for bound in BOUNDS)
        buckets = list(zip(map(floatToGoString, BOUNDS), below, strict=True))
        family.add_metric((endpoint,), buckets, sketch.total / NANOSECONDS)
    return family


def _family(
    name: str,
    text: str,
    values: Mapping[Any, float],
    labels: tuple[str, ...] = ("endpoint",),
    kind: type[CounterMetricFamily | GaugeMetricFamily] = GaugeMetricFamily,
) -> Metric:
    """Return a metric. A key of ``values`` is a tuple of label values, or a string if there is one label."""
    family = kind(name, text, labels=labels)
    for label_values, value in sorted(values.items()):
        family.add_metric((label_values,) if isinstance(label_values, str) else label_values, value)
    return family
