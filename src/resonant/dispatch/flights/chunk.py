"""A chunk: flights to one endpoint that one task run sends."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resonant.delivery.retry import GiveUp
from resonant.dispatch.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resonant.delivery.outcome import Outcome
    from resonant.dispatch.flights.endpoint_run import EndpointRun
    from resonant.dispatch.flights.flight import Flight

# The maximum number of dead letters of a chunk that are shown one by one.
MOST_SHOWN = 20


@dataclass(slots=True, eq=False)
class Chunk:
    """Deliveries to one endpoint, and their outcomes.

    Attributes:
        endpoint: the endpoint of its deliveries.
        flights: those whose sends have not begun, in order. No others, since a caller keeps the chunk, and each flight has a body.
        counts: the outcomes of its deliveries.
        shown: the outcomes of the first ``MOST_SHOWN`` dead letters.
    """

    endpoint: EndpointRun
    flights: deque[Flight]
    counts: Counts = field(default_factory=Counts)
    shown: list[Outcome] = field(default_factory=list)
    _is_starting: bool = True

    @classmethod
    def of(cls, endpoint: EndpointRun, flights: Iterable[Flight]) -> Chunk:
        """Gather flights, and count the chunk until ``begin``."""
        chunk = cls(endpoint, deque(flights))
        endpoint.flights.chunks += 1
        for flight in chunk.flights:
            flight.in_chunk = True
        return chunk

    def begin(self) -> None:
        """Note that its task run begins to send, or will not start."""
        if self._is_starting:
            self._is_starting = False
            self.endpoint.flights.chunks -= 1

    def note(self, outcome: Outcome) -> None:
        """Count a recorded outcome of an attempt."""
        match outcome.decision:
            case None:
                self.counts.delivered += 1
            case GiveUp(reason=reason):
                self.counts.dead_letters[reason] += 1
                if len(self.shown) < MOST_SHOWN:
                    self.shown.append(outcome)
            case _:
                self.counts.parked += 1
                self.counts.codes[outcome.attempt.code or "unknown"] += 1

    def keep(self, number: int) -> list[Flight]:
        """Keep this many flights; return the others."""
        return [self.flights.pop() for _ in range(len(self.flights) - number)]
