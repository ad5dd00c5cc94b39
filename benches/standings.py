"""The standings of the contenders in the comparison: their measurements, and the table."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Self

import numpy as np

from benches.tables import number, print_table

Kind = Callable[["Visit"], "Delivered"]
Value = Callable[["Delivered"], float]

_OF_RAW = "of raw"
_HEADINGS = (
    *("contender", "at once", "faults"),
    *("events/s", _OF_RAW, "CPU ms", _OF_RAW, "and of", "peak MB", _OF_RAW),
    *("added ms p50", "and p99"),
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The delivery of one batch of events.

    Attributes:
        events_per_second: from the receiver's first request until the last event that was new to it.
        cpu_ms: CPU time of all sending processes, in milliseconds per event.
        services_cpu_ms: CPU time of their services until they were idle again, in milliseconds per event, by name.
        peak_megabytes: resident memory of the sending processes; shared memory counts in each.
        latencies: seconds from enqueuing an event in an idle system until its receipt, measured beforehand with other
            events. For contenders that store nothing, they begin just before the worker's call, after it has read the file.
    """

    events_per_second: float
    cpu_ms: float
    services_cpu_ms: dict[str, float]
    peak_megabytes: float
    latencies: list[float]


@dataclass(frozen=True, slots=True)
class Visit:
    """The measurements of a contender in one round.

    Attributes:
        plain: the delivery without faults.
        faulty: the delivery with a 503 for the first attempt of a fifth of the events.
    """

    plain: Delivered
    faulty: Delivered


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
        return {turn: kind(visit) for turn, visit in self.visits.items()}

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

    def latencies(self, kind: Kind) -> list[float]:
        """Return all rounds' latencies."""
        return [latency for each in self.delivered(kind).values() for latency in each.latencies]


plain: Kind = attrgetter("plain")
faulty: Kind = attrgetter("faulty")
events_per_second: Value = attrgetter("events_per_second")
cpu_ms: Value = attrgetter("cpu_ms")
_peak_megabytes: Value = attrgetter("peak_megabytes")


def all_cpu_ms(each: Delivered) -> float:
    """Return the CPU time of the sending processes and their services."""
    return each.cpu_ms + sum(each.services_cpu_ms.values())


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
        *measured(_peak_megabytes),
        *(_added_latency(standing, raw, kind, percentile) for percentile in (50, 99)),
    ]


def _services(standing: Standing, kind: Kind) -> str:
    found: dict[str, list[float]] = {}
    for each in standing.delivered(kind).values():
        for name, milliseconds in each.services_cpu_ms.items():
            found.setdefault(name, []).append(milliseconds)
    return ", ".join(f"{name} {number(statistics.median(values))}" for name, values in found.items())


def _added_latency(standing: Standing, raw: Standing | None, kind: Kind, percentile: float) -> str:
    ours, bare = (each.latency_ms(kind, percentile) if each else None for each in (standing, raw))
    return "" if ours is None or bare is None else f"{ours - bare:,.1f}"
