"""The standings of the contenders in the comparison: their measurements, and the table."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from benches.tables import number, print_table

Kind = Callable[["Visit"], "Delivered | None"]
Value = Callable[["Delivered"], float]

_OF_RAW = "of raw"
_HEADINGS = (
    *("contender", "at once", "faults"),
    *("events/s", _OF_RAW, "CPU ms", _OF_RAW, "and of", "peak MB", _OF_RAW),
    *("added ms p50", "of bare", "and p99", "of bare"),
)
_ENOUGH_FOR_P99 = 100


@dataclass(frozen=True, slots=True)
class Delivered:
    """The delivery of one batch of events.

    Attributes:
        events_per_second: from the receiver's first request until the last event that was new to it.
        cpu_ms: CPU time of all sending processes, in milliseconds per event.
        services_cpu_ms: CPU time of their services until they were idle again, in milliseconds per event, by name.
        peak_megabytes: resident memory of the sending processes; shared memory counts in each.
        quiet_after: seconds from the last receipt until workers and services were idle.
        requests: received by the receiver.
        duplicates: requests for events that were already accepted.
        enqueue_seconds: seconds to enqueue the events beforehand, while the workers were stopped.
        latencies: seconds from enqueuing an event in an idle system until its receipt, measured beforehand with other
            events. For contenders that store nothing, they begin just before the worker's call, after it has read the file.
    """

    events_per_second: float
    cpu_ms: float
    services_cpu_ms: dict[str, float]
    peak_megabytes: float
    quiet_after: float
    requests: int
    duplicates: int
    enqueue_seconds: float
    latencies: list[float]


@dataclass(frozen=True, slots=True)
class Visit:
    """The measurements of a contender in one round.

    Attributes:
        plain: the delivery without faults.
        faulty: the delivery with a 503 for the first attempt of a fifth of the events; None if it sends nothing.
    """

    plain: Delivered
    faulty: Delivered | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A contender and its measurements.

    Attributes:
        name: the contender's name.
        in_flight: concurrent sends.
        visits: visits by the number of the round, without failed rounds.
        remark: the reason for missing measurements; empty if none are missing.
        is_missing: whether a part of it is not installed.
    """

    name: str
    in_flight: int
    visits: dict[int, Visit] = field(default_factory=dict)
    remark: str = ""
    is_missing: bool = False

    def delivered(self, kind: Kind) -> dict[int, Delivered]:
        """Return the deliveries without or with faults, by the number of the round."""
        return {turn: found for turn, visit in self.visits.items() if (found := kind(visit)) is not None}

    def values(self, kind: Kind, value: Value) -> list[float]:
        """Return a value for each round that has one."""
        return [value(each) for each in self.delivered(kind).values()]

    def ratios(self, other: Self, kind: Kind, value: Value) -> list[float]:
        """Return the ratios of a value to another standing's, for each round that both have."""
        ours, theirs = self.delivered(kind), other.delivered(kind)
        return [value(ours[turn]) / value(theirs[turn]) for turn in sorted(ours.keys() & theirs.keys())]

    def latency_ms(self, kind: Kind, percentile: float) -> float | None:
        """Return a percentile (0 to 100) of all rounds' latencies."""
        latencies = self.latencies(kind)
        return float(np.percentile(latencies, percentile)) * 1000 if latencies else None

    def added_latency_ms(self, bare: Self, kind: Kind, percentile: float) -> float | None:
        """Return a percentile minus the same percentile of another standing."""
        ours, theirs = (each.latency_ms(kind, percentile) for each in (self, bare))
        return None if ours is None or theirs is None else ours - theirs

    def latencies(self, kind: Kind) -> list[float]:
        """Return all rounds' latencies."""
        return [latency for each in self.delivered(kind).values() for latency in each.latencies]


def plain(visit: Visit) -> Delivered | None:
    """Return the delivery without faults."""
    return visit.plain


def faulty(visit: Visit) -> Delivered | None:
    """Return the delivery with faults."""
    return visit.faulty


def events_per_second(each: Delivered) -> float:
    """Return the throughput."""
    return each.events_per_second


def cpu_ms(each: Delivered) -> float:
    """Return the CPU time of the sending processes."""
    return each.cpu_ms


def all_cpu_ms(each: Delivered) -> float:
    """Return the CPU time of the sending processes and their services."""
    return each.cpu_ms + sum(each.services_cpu_ms.values())


def peak_megabytes(each: Delivered) -> float:
    """Return the peak memory of the sending processes."""
    return each.peak_megabytes


# The part of the events whose first attempt fails.
_KINDS: dict[str, Kind] = {"0 %": plain, "20 %": faulty}


def show_standings(standings: Sequence[Standing], raw: Standing | None) -> None:
    """Print a table with two rows for each contender, without and with faults.

    The latencies of a bare call are subtracted, p50 from p50 and p99 from p99.

    Args:
        standings: the standings of all contenders.
        raw: the raw loop's standing, the baseline of the ratios and of the latencies; None if it is missing.
    """
    rows = [
        _row(each, raw, faults, kind)
        for each in standings
        for faults, kind in _KINDS.items()
        if each.delivered(kind)
    ]
    print_table(_HEADINGS, set(_HEADINGS) - {"contender", "and of"}, rows)
    for faults, kind in _KINDS.items():
        p50, p99 = (raw.latency_ms(kind, percentile) if raw else None for percentile in (50, 99))
        if p50 is not None and p99 is not None:
            print(f"bare call, {faults} faults: p50 {number(p50)} ms, p99 {number(p99)} ms")
    counts = [count for each in standings for kind in _KINDS.values() if (count := len(each.latencies(kind)))]
    if counts and min(counts) < _ENOUGH_FOR_P99:
        print(
            f"latencies per row: {min(counts)} to {max(counts)}; with fewer than {_ENOUGH_FOR_P99}, p99 is close to the largest"
        )
    for each in standings:
        if each.remark:
            print(f"{each.name}: {each.remark}")


def _row(standing: Standing, raw: Standing | None, faults: str, kind: Kind) -> list[str]:
    def measured(value: Value, *, with_range: bool = False) -> tuple[str, str]:
        ratios = standing.ratios(raw, kind, value) if raw else []
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        if with_range and len(ratios) > 1:
            ratio += f" ({min(ratios):.2f} to {max(ratios):.2f})"
        return number(statistics.median(standing.values(kind, value))), ratio

    return [
        *(standing.name, str(standing.in_flight), faults),
        *measured(events_per_second, with_range=True),
        *measured(cpu_ms),
        _services(standing, kind),
        *measured(peak_megabytes),
        *_added_latency(standing, raw, kind, 50),
        *_added_latency(standing, raw, kind, 99),
    ]


def _services(standing: Standing, kind: Kind) -> str:
    found: dict[str, list[float]] = {}
    for each in standing.delivered(kind).values():
        for name, milliseconds in each.services_cpu_ms.items():
            found.setdefault(name, []).append(milliseconds)
    return ", ".join(f"{name} {number(statistics.median(values))}" for name, values in found.items())


def _added_latency(
    standing: Standing, raw: Standing | None, kind: Kind, percentile: float
) -> tuple[str, str]:
    added = standing.added_latency_ms(raw, kind, percentile) if raw else None
    bare = raw.latency_ms(kind, percentile) if raw else None
    if added is None or bare is None:
        return "", ""
    return f"{added:,.1f}", f"{added / bare + 1:,.1f}"
