"""The measurements of a simulation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resonant.lab.scenario import Scenario


class Journal:
    """Records the requests to the receiver and the outcomes of the deliveries."""

    def __init__(self) -> None:
        self.sent_at: list[float] = []
        self.accepted_at: list[float] = []
        self.delivered_at: list[float] = []
        self.given_up_at: list[float] = []

    def sent(self, now: float, is_accepted: bool) -> None:
        """Record a request."""
        self.sent_at.append(now)
        if is_accepted:
            self.accepted_at.append(now)

    def delivered(self, now: float) -> None:
        """Record a delivery."""
        self.delivered_at.append(now)

    def given_up(self, now: float) -> None:
        """Record a dead letter."""
        self.given_up_at.append(now)


@dataclass(frozen=True, slots=True)
class Result:
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
        accepted: accepted requests in each second.
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
    accepted: list[int]


def measure(journal: Journal, scenario: Scenario) -> Result:
    """Return the results of a run."""
    start = scenario.outage
    after = Counter(int(at - start) for at in journal.sent_at if at >= start)
    late = [at for at in journal.delivered_at if at >= start]
    end = max(late, default=start)
    seconds = int(max(journal.sent_at, default=0.0)) + 1
    by_second, accepted = Counter(map(int, journal.sent_at)), Counter(map(int, journal.accepted_at))
    return Result(
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
        accepted=[accepted[second] for second in range(seconds)],
    )
