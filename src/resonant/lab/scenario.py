"""The simulated scenario: the events, the endpoint, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outage = Literal["refuse", "503", "429", "hang"]
Overload = Literal["503", "429", "queue"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One endpoint, the events for it, and how it behaves. Times are in seconds, from the start of the outage.

    Attributes:
        events: how many there are.
        over: the time over which they arrive; 0 for all at the start.
        outage: how long the endpoint is down at first.
        outage_kind: how it fails then: ``refuse`` connections, answer ``503`` or ``429``, or ``hang`` without an answer.
        flap: during the outage the endpoint alternates between down and up, each for this time; 0 for never.
        capacity: requests that it takes per second; 0 for any number.
        overload: its reaction to more requests: answer ``503`` or ``429``, or ``queue`` them.
        retry_after: the Retry-After of each 429 and 503; 0 for none.
        failures: the share of requests that fail at random, with 503.
        poison: the share of events that always fail, all of one type.
        types: how many event types there are.
        processes: how many send.
        concurrency: concurrent requests per process.
        latency: of an answer, on average.
        timeout: the deadline of one attempt.
        rate: the endpoint's limit of sends per second, of all processes together; 0 for none.
    """

    events: int = 1_000
    over: float = 0.0
    outage: float = 30.0
    outage_kind: Outage = "refuse"
    flap: float = 0.0
    capacity: float = 50.0
    overload: Overload = "503"
    retry_after: float = 0.0
    failures: float = 0.0
    poison: float = 0.0
    types: int = 5
    processes: int = 1
    concurrency: int = 50
    latency: float = 0.02
    timeout: float = 15.0
    rate: float = 0.0

    @property
    def shortest_drain(self) -> float:
        """How long the endpoint needs at least for all events once it is up; 0 without a limit."""
        return self.events / self.capacity if self.capacity else 0.0
