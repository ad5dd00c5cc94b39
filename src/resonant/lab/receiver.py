"""A model of an endpoint: outages, a limited capacity, random failures, and events that always fail."""

import random
from collections import deque
from typing import NamedTuple

from resonant.lab.scenario import Scenario

POISON_TYPE = 0
_QUICK_SECONDS = 0.003
ACCEPTED = 200
_OVERLOADED = {"503": 503, "429": 429, "queue": 503}


class Reply(NamedTuple):
    """The reply to a request: the delay in seconds, and the status; None for no answer."""

    after: float
    status: int | None


class SimulatedReceiver:
    """Answers requests in simulated time.

    Args:
        scenario: the receiver's behaviour.
        rng: draws latencies and random failures.
    """

    def __init__(self, scenario: Scenario, rng: random.Random) -> None:
        self._scenario = scenario
        self._rng = rng
        self._taken: deque[float] = deque()
        self._free_at = 0.0

    def is_down(self, now: float) -> bool:
        """Return whether the endpoint is down."""
        scenario = self._scenario
        if now >= scenario.outage:
            return False
        return not scenario.flap or int(now / scenario.flap) % 2 == 0

    def accepts_connections(self, now: float) -> bool:
        """Return whether the endpoint accepts a connection."""
        return self._scenario.outage_kind != "refuse" or not self.is_down(now)

    def take(self, now: float, event_type: int) -> Reply:
        """Return the reply to a request that arrives now."""
        scenario, rng = self._scenario, self._rng
        if self.is_down(now):
            return {
                "refuse": Reply(_QUICK_SECONDS, None),
                "503": Reply(_QUICK_SECONDS, 503),
                "429": Reply(_QUICK_SECONDS, 429),
                "hang": Reply(scenario.timeout, None),
            }[scenario.outage_kind]
        if scenario.limited and rng.random() < scenario.limited:
            return Reply(_QUICK_SECONDS, 429)
        latency = scenario.latency * rng.uniform(0.5, 1.5)
        if scenario.capacity:
            waits = self._place(now)
            if waits is None:
                return Reply(_QUICK_SECONDS, _OVERLOADED[scenario.overload])
            if waits + latency > scenario.timeout:
                return Reply(scenario.timeout, None)
            latency += waits
        is_poison = scenario.poison and event_type == POISON_TYPE
        if is_poison or rng.random() < scenario.failures:
            return Reply(latency, 503)
        return Reply(latency, ACCEPTED)

    def _place(self, now: float) -> float | None:
        """Return how long a request waits for its turn, or None if it is rejected."""
        capacity = self._scenario.capacity
        if self._scenario.overload == "queue":
            start = max(now, self._free_at)
            self._free_at = start + 1 / capacity
            return start - now
        taken = self._taken
        span = max(1.0, 1 / capacity)
        while taken and taken[0] <= now - span:
            taken.popleft()
        if len(taken) >= max(1.0, capacity):
            return None
        taken.append(now)
        return 0.0
