"""How the contenders of the comparison stand: what was measured of each, and the table."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benches.measuring import number, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_HEADINGS = (
    "contender",
    "sends at once",
    "events/s",
    "of raw",
    "CPU ms",
    "and of",
    "peak MB",
    "added ms p50",
    "p99",
    "a fifth fails: events/s",
    "of raw",
    "CPU ms",
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """One lot of events, delivered.

    Attributes:
        events_per_second: from the first request that the receiver got until the last event that was new to it.
        cpu_ms: of all processes that send, in milliseconds an event.
        services_cpu_ms: of what they lean on, by name, until that was quiet again; likewise.
        peak_megabytes: resident memory of the processes that send; what they share is counted in each.
        quiet_after: seconds from the last receipt until workers and services were quiet.
        requests: that the receiver got.
        duplicates: requests for an event that had been accepted.
        enqueue_seconds: of handing the events over, before, while the workers were stopped.
    """

    events_per_second: float
    cpu_ms: float
    services_cpu_ms: dict[str, float]
    peak_megabytes: float
    quiet_after: float
    requests: int
    duplicates: int
    enqueue_seconds: float


@dataclass(frozen=True, slots=True)
class Visit:
    """What was measured of a contender in one round.

    Attributes:
        plain: with no faults.
        faulty: with the first attempt of a fifth of the events answered 503; None where nothing is sent.
        latencies: seconds from handing one event over to an idle system until the receiver had it, once each.
    """

    plain: Delivered
    faulty: Delivered | None
    latencies: list[float]


@dataclass(frozen=True, slots=True)
class Standing:
    """A contender, and what was measured of it.

    Attributes:
        name: the contender's.
        in_flight: sends at the same time.
        visits: by the number of the round; a round that failed is not there.
        remark: why there is nothing, or not all; empty otherwise.
    """

    name: str
    in_flight: int
    visits: dict[int, Visit] = field(default_factory=dict)
    remark: str = ""

    def values(self, value: Callable[[Visit], float | None]) -> list[float]:
        """Return a value of each round in which there is one."""
        return [found for visit in self.visits.values() if (found := value(visit)) is not None]

    def latency_ms(self, percentile: float) -> float | None:
        """Return a percentile (0 to 100) of all rounds' latencies."""
        latencies = [each for visit in self.visits.values() for each in visit.latencies]
        return float(np.percentile(latencies, percentile)) * 1000 if latencies else None


def faulty(value: Callable[[Delivered], float]) -> Callable[[Visit], float | None]:
    """Take a value of what was delivered with faults."""
    return lambda visit: None if visit.faulty is None else value(visit.faulty)


def plain(value: Callable[[Delivered], float]) -> Callable[[Visit], float | None]:
    """Take a value of what was delivered without faults."""
    return lambda visit: value(visit.plain)


def show_standings(standings: Sequence[Standing]) -> None:
    """Print a table with a row for each contender; the first is what others are compared with."""
    raw = standings[0]
    right = set(_HEADINGS[1:])
    print_table(_HEADINGS, right, [_row(each, raw) for each in standings if each.visits])
    for each in standings:
        if each.remark:
            print(f"{each.name}: {each.remark}")


def _row(standing: Standing, raw: Standing) -> list[str]:
    cells = [standing.name, str(standing.in_flight)]
    for kind in (plain, faulty):
        speeds = standing.values(kind(lambda each: each.events_per_second))
        of_raw = raw.values(kind(lambda each: each.events_per_second))
        ratio = f"{statistics.median(speeds) / statistics.median(of_raw):.2f}" if speeds and of_raw else ""
        cells += [_median_and_range(speeds), ratio, _median(standing.values(kind(lambda each: each.cpu_ms)))]
        if kind is plain:
            cells += [_services(standing), _median(standing.values(kind(lambda each: each.peak_megabytes)))]
            cells += _added_latency(standing, raw)
    return cells


def _services(standing: Standing) -> str:
    visits = list(standing.visits.values())
    names = visits[0].plain.services_cpu_ms
    return ", ".join(
        f"{name} {_median([visit.plain.services_cpu_ms[name] for visit in visits])}" for name in names
    )


def _added_latency(standing: Standing, raw: Standing) -> list[str]:
    """Return percentiles, less what a bare call takes (in the median)."""
    bare = raw.latency_ms(50)
    found = [standing.latency_ms(50), standing.latency_ms(99)]
    return ["" if each is None or bare is None else f"{each - bare:,.1f}" for each in found]


def _median_and_range(values: Sequence[float]) -> str:
    if len(values) < 2:
        return _median(values)
    return f"{_median(values)} ({number(min(values))} to {number(max(values))})"


def _median(values: Iterable[float]) -> str:
    known = list(values)
    return number(statistics.median(known)) if known else ""
