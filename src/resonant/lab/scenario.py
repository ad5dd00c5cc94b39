"""The simulated scenario: the events, the endpoint and its failures."""

from dataclasses import dataclass
from typing import Literal

Outage = Literal["refuse", "503", "429", "hang"]
Overload = Literal["503", "429", "queue"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One endpoint, its events and its behaviour. Times are in seconds from the start of the outage.

    Attributes:
        events: the number of events.
        over: the interval in which the events arrive; 0 if all arrive at the start.
        outage: the duration of the initial outage.
        outage_kind: the endpoint's behaviour during the outage: ``refuse`` connections, answer ``503`` or ``429``, or
            ``hang`` without an answer.
        flap: during the outage, the endpoint is alternately down and up for this time; 0 if it stays down.
        capacity: requests that the endpoint accepts per second; 0 for no limit.
        overload: the endpoint's reaction to more requests: answer ``503`` or ``429``, or ``queue`` them.
        retry_after: the Retry-After of each 429 and 503; 0 for none.
        failures: the share of requests that fail at random, with 503.
        limited: the share of requests that are answered 429 at random, as by a limit per tenant.
        poison: the share of events that always fail, all of one type.
        types: the number of event types.
        processes: the number of sending processes.
        concurrency: concurrent requests per process.
        latency: the average latency of an answer.
        timeout: the deadline of one attempt.
        rate: the endpoint's limit of sends per second, summed over all processes; 0 for none.
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
    limited: float = 0.0
    poison: float = 0.0
    types: int = 5
    processes: int = 1
    concurrency: int = 50
    latency: float = 0.02
    timeout: float = 15.0
    rate: float = 0.0

    @property
    def shortest_drain(self) -> float:
        """The shortest time in which the recovered endpoint can accept all events; 0 without a limit."""
        return self.events / self.capacity if self.capacity else 0.0
