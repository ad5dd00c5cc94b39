"""The metrics of one server process, for ``/metrics``. The counts start at 0."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

EventOutcome = Literal["stored", "duplicate", "unrouted", "refused"]
SourceResult = Literal[
    "stored",
    "duplicate",
    "unrouted",
    "conflict",
    "kept",
    "challenge",
    "forged",
    "stale",
    "limited",
    "refused",
    "failed",
]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, float("inf"))


class Meters(Collector):
    """The counts of a server.

    Attributes:
        requests: answered requests by status.
        events: events by outcome.
        sources: webhooks by source and result.
        waiting: requests that were received completely and have no answer yet.
        in_turn: those of the waiting requests whose large bodies wait to be parsed, or are being parsed.
        held_bytes: the bodies of all requests.
        connections: open connections.
        registry: has these metrics and no others.
    """

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.events: Counter[EventOutcome] = Counter(dict.fromkeys(get_args(EventOutcome), 0))
        self.sources: Counter[tuple[str, SourceResult]] = Counter()
        self.waiting = 0
        self.in_turn = 0
        self.held_bytes = 0
        self.connections = 0
        self._durations = [0] * len(BOUNDS)
        self._seconds = 0.0
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def observe(self, status: int, seconds: float) -> None:
        """Count an answered request, and how long it took."""
        self.requests[status] += 1
        self._durations[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """Return the metrics for Prometheus."""
        requests = CounterMetricFamily(
            "resonant_intake_requests_total",
            "Requests that were answered, by the status of the answer.",
            labels=("status",),
        )
        for status, number in sorted(self.requests.items()):
            requests.add_metric((str(status),), number)
        yield requests
        events = CounterMetricFamily(
            "resonant_intake_events_total",
            "Events of POST /events: stored, duplicate (stored before), unrouted (no subscription matches), or refused.",
            labels=("outcome",),
        )
        for outcome, number in self.events.items():
            events.add_metric((outcome,), number)
        yield events
        sources = CounterMetricFamily(
            "resonant_source_requests_total",
            "Webhooks of declared sources, by the name of the source and the result.",
            labels=("source", "result"),
        )
        for labels, number in sorted(self.sources.items()):
            sources.add_metric(labels, number)
        yield sources
        buckets = zip(map(_bound, BOUNDS), accumulate(self._durations), strict=True)
        durations = HistogramMetricFamily(
            "resonant_intake_request_duration_seconds",
            "Time from the end of a request's headers to the end of its answer, with the time that its body took.",
            labels=(),
        )
        durations.add_metric((), list(buckets), self._seconds)
        yield durations
        for name, text, value in (
            (
                "resonant_intake_waiting_requests",
                "Requests that were received and have no answer yet.",
                self.waiting,
            ),
            (
                "resonant_intake_body_bytes",
                "Bytes in the bodies of requests that have no answer yet.",
                self.held_bytes,
            ),
            ("resonant_intake_connections", "Open connections.", self.connections),
        ):
            yield GaugeMetricFamily(name, text, value)


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == BOUNDS[-1] else f"{seconds:g}"
