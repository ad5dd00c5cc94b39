"""The flights of one run."""

import asyncio
from collections.abc import Collection, Sequence

from resonant.dispatch.flights.counts import FlightCounts
from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.dispatch.flights.flight import Flight
from resonant.events import Lease, LeaseKey

# The most bytes of bodies in flight. Only a delivery whose body is larger than a 64th of this may exceed it.
MOST_BYTES = 64 * 1024 * 1024


class Flights:
    """The flights of a run, by key, and the limits on their number and memory.

    Args:
        max_waiting: the maximum number of flights that wait for a retry.

    Attributes:
        counts: how many flights are in each state.
    """

    def __init__(self, max_waiting: int = 1_000) -> None:
        self.counts = FlightCounts()
        self._max_waiting = max_waiting
        self._by_key: dict[LeaseKey, Flight] = {}
        self._ending: set[LeaseKey] = set()

    def __bool__(self) -> bool:
        return bool(self._by_key or self._ending)

    @property
    def may_wait(self) -> bool:
        """Whether one more flight, with its body, may wait for a retry."""
        return self.counts.retrying < self._max_waiting and self.counts.bytes <= MOST_BYTES // 2

    @property
    def bytes_left(self) -> int:
        """The size of the bodies that may be claimed. A claim takes at least one, so room for one more is kept."""
        return MOST_BYTES - MOST_BYTES // 64 - self.counts.bytes

    def bytes_left_for_slow(self, endpoints: Collection[EndpointRun]) -> int:
        """Return ``bytes_left`` for endpoints whose sends are not short: together, they use at most half of the memory.

        Args:
            endpoints: all endpoints with deliveries in flight.
        """
        slow = sum(each.flights.bytes for each in endpoints if not each.slots.is_short)
        return min(self.bytes_left, MOST_BYTES // 2 - slow)

    def body_bytes(self, endpoint: EndpointRun) -> int:
        """Return the expected size of an endpoint's bodies: that of its last ones, or the average of all in flight."""
        return max(1, round(endpoint.flights.body_bytes) or self.counts.bytes // max(1, len(self._by_key)))

    def lease_keys(self) -> set[LeaseKey]:
        """Return the known leases, including those that end with a write that is not committed."""
        return self._by_key.keys() | self._ending

    def claim(self, lease: Lease, endpoint: EndpointRun, *, is_probe: bool = False) -> Flight:
        """Return the flight of a newly claimed lease."""
        return Flight(lease, endpoint, self._by_key, is_probe=is_probe)

    def get(self, key: LeaseKey) -> Flight | None:
        """Return a flight; None once it has ended."""
        return self._by_key.get(key)

    def end_with(self, written: asyncio.Future[set[LeaseKey]], flights: Sequence[Flight]) -> None:
        """Renew the leases of ended flights until the write that ends them, which may have to wait for a lock."""
        keys = {flight.key for flight in flights}
        self._ending |= keys
        written.add_done_callback(lambda _: self._ending.difference_update(keys))
