"""The measurements of a simulation."""

from collections import Counter
from dataclasses import dataclass, field

from resonant.lab.scenario import Scenario


@dataclass(slots=True)
class Journal:
    """The times of the requests to the receiver, and of the outcomes of the deliveries."""

    sent_at: list[float] = field(default_factory=list)
    delivered_at: list[float] = field(default_factory=list)
    given_up_at: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The results of one simulation. Times are in seconds.

    Attributes:
        attempts: attempts per event.
        peak: requests in the busiest whole second after recovery, relative to the capacity.
        drain: time from recovery to the last delivery.
        noticed: time from recovery to the first delivery after it.
        given_up: dead letters.
        unfinished: deliveries that were neither delivered nor given up when the simulation stopped.
        sends: the total number of requests.
        busiest: requests in the busiest whole second of the simulation.
        goodput: deliveries per second, from recovery to the last delivery.
        requests: requests in each second.
    """

    attempts: float
    peak: float
    drain: float
    noticed: float
    given_up: int
    unfinished: int
    sends: int
    busiest: int
    goodput: float
    requests: list[int]


def measure(journal: Journal, scenario: Scenario) -> SimulationResult:
    """Return the results of a run."""
    start = scenario.outage
    after = Counter(int(at - start) for at in journal.sent_at if at >= start)
    late = [at for at in journal.delivered_at if at >= start]
    end = max(late, default=start)
    seconds = int(max(journal.sent_at, default=0.0)) + 1
    by_second = Counter(map(int, journal.sent_at))
    return SimulationResult(
        attempts=len(journal.sent_at) / scenario.events,
        peak=max(after.values(), default=0) / (scenario.capacity or 1),
        drain=end - start,
        noticed=min(late, default=start) - start,
        given_up=len(journal.given_up_at),
        unfinished=scenario.events - len(journal.delivered_at) - len(journal.given_up_at),
        sends=len(journal.sent_at),
        busiest=max(by_second.values(), default=0),
        goodput=len(late) / (end - start) if end > start else 0.0,
        requests=[by_second[second] for second in range(seconds)],
    )
