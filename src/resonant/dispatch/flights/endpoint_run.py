"""One endpoint of a run."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from resonant.delivery.retry import GateView
from resonant.dispatch.flights.counts import FlightCounts
from resonant.store.shared.gates import holds_for_long

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from resonant.delivery.attempt import Destination
    from resonant.dispatch.limiting.ahead import ClaimSize, PrefetchWindow
    from resonant.dispatch.limiting.limiter import EndpointSlots
    from resonant.dispatch.limiting.rate import NoRate, Rate
    from resonant.events import Clock
    from resonant.gate.controller import EndpointGate
    from resonant.store.shared.gates import Gate

# Deliveries wait in this process for a pace that sends them within this time; others wait in the store.
PACE_WAIT_SECONDS = 2.0


class LastClaim(NamedTuple):
    """When deliveries were last claimed, by the event loop's clock, and the event type that had the last turn."""

    at: float = 0.0
    event_type: str = ""


@dataclass(slots=True, eq=False)
class EndpointRun:
    """One open endpoint of a run: its parts, and the counts of its flights.

    Attributes:
        name: the endpoint's name in the store.
        destination: the endpoint, open for sending.
        gate: decides whether and how fast this process may send.
        slots: the endpoint's concurrent sends.
        rate: limits its sends per second.
        window: limits the deliveries that begin ahead of their sends.
        claims: how many deliveries the next claim takes.
        clock: the clock that all processes of the store share.
        flights: how many of its flights are in each state.
        last_claim: the last claim.
        turn: held by the delivery that asks the gate next.
        has_changed: set when an answer or the gate may have changed what the gate permits.
    """

    name: str
    destination: Destination
    gate: EndpointGate
    slots: EndpointSlots
    rate: Rate | NoRate
    window: PrefetchWindow
    claims: ClaimSize
    clock: Clock
    flights: FlightCounts = field(default_factory=FlightCounts)
    last_claim: LastClaim = field(default_factory=LastClaim)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    has_changed: asyncio.Event = field(default_factory=asyncio.Event)

    def governs(self) -> bool:
        """Return whether the gate holds deliveries or paces them."""
        return self.gate.governs(self.clock())

    def note_claim(self, at: float, types: Iterable[str]) -> None:
        """Note a claim from these event types, the time by the event loop's clock; types take turns in the order of their names."""
        last = self.last_claim.event_type
        self.last_claim = LastClaim(at, max(types, key=lambda name: (name <= last, name)))

    def takes_turns(self) -> bool:
        """Return whether the event types of this endpoint are claimed in turn."""
        return self.gate.takes_turns(self.clock())

    def holds_shortly(self) -> bool:
        """Return whether the gate holds deliveries only briefly, so that a run waits for them."""
        return self.takes_turns() and not self.holds_for_long()

    def holds_for_long(self) -> bool:
        """Return whether the gate holds deliveries too long for a run to wait for them."""
        now, failing = self.clock(), self.gate.failing().values()
        if failing and not self.governs():
            return all(each.has_failed_for_long(now) for each in failing)
        return holds_for_long(self.gate.row, now)

    def stops(self) -> bool:
        """Return whether no send is allowed: the endpoint is paused, or a Retry-After is in effect."""
        return self.gate.row.state == "paused" or self.gate.must_wait(self.clock())

    def is_ready(self) -> bool:
        """Return whether the endpoint has what a send needs, such as an OAuth token."""
        problem = self.destination.problem
        return problem is None or problem() is None

    def claim_limit(self) -> float:
        """Return how many deliveries the gate lets this run claim."""
        return self.gate.claim_limit(self.clock(), self.flights.waiting)

    def holds_all(self, failing: AbstractSet[str]) -> bool:
        """Return whether this run may claim nothing.

        Args:
            failing: the types of the due deliveries, if the row holds all of them; otherwise empty.
        """
        # This process may know, before the row, that one of them works again.
        return self.claim_limit() == 0 or (bool(failing) and self.gate.failing().keys() >= failing)

    def view(self, event_type: str) -> GateView:
        """Return the state of the gate for a decision about a delivery of this type."""
        state, is_held = self.gate.row.state, event_type in self.gate.failing()
        has_room = not is_held and self.has_room_to_wait()
        return GateView(is_held or self.governs(), is_held or state == "probing", has_room, state)

    def has_room_to_wait(self) -> bool:
        """Return whether one more delivery may wait here for the pace: it would be sent soon."""
        # While the gate stops, the deliveries that are not sent yet go back to the store.
        ahead = self.flights.retrying + (0 if self.stops() else self.flights.waiting)
        return ahead < self.most_waiting()

    def most_waiting(self) -> int:
        """Return how many deliveries may wait here for the pace; 0 if this process does not pace."""
        return self.gate.most_within(PACE_WAIT_SECONDS, self.clock())

    def see(self, row: Gate, *, at: float = -math.inf) -> None:
        """Pass the gate's row in the store to its controller; ``at`` is the time when it was read, if known."""
        before = self.gate.row
        self.gate.see(row, at=at)
        if self.gate.row is not before:
            self.has_changed.set()
