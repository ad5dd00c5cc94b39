"""The in-flight leases of one run.

The key is the lease, not the delivery: a run may lose a lease and claim the same delivery again.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from resonant.dispatch.endpoint_run import EndpointRun
from resonant.events import Lease, LeaseKey

# The weight of the last body in an endpoint's average.
_WEIGHT = 1 / 8
# The most bytes of bodies in flight. Only a delivery whose body is larger than a 64th of this may exceed it.
MOST_BYTES = 64 * 1024 * 1024


class InFlight:
    """The leases of a run, each either busy (being sent or waiting for a slot) or waiting for its retry.

    Args:
        endpoints: the open endpoints of the run; each counts its own busy leases.
        max_waiting: the maximum number of leases that wait for a retry.

    Attributes:
        total_busy: the number of busy leases.
        bytes: the total size of the bodies in flight, in bytes.
    """

    def __init__(self, endpoints: Mapping[str, EndpointRun], max_waiting: int = 1_000) -> None:
        self.total_busy = 0
        self.bytes = 0
        self._endpoints = endpoints
        self._max_waiting = max_waiting
        self._leases: dict[LeaseKey, Lease] = {}
        self._waiting: set[LeaseKey] = set()
        self._retried: set[LeaseKey] = set()
        self._ending: set[LeaseKey] = set()

    def __bool__(self) -> bool:
        return bool(self._leases or self._ending)

    @property
    def may_wait(self) -> bool:
        """Whether one more lease, with its body, may wait for a retry."""
        return len(self._waiting) < self._max_waiting and self.bytes <= MOST_BYTES // 2

    @property
    def bytes_left(self) -> int:
        """The size of the bodies that may be claimed. A claim takes at least one, so room for one more is kept."""
        return MOST_BYTES - MOST_BYTES // 64 - self.bytes

    def bytes_left_for_slow(self, endpoints: Collection[EndpointRun]) -> int:
        """Return ``bytes_left`` for endpoints whose sends are not short: together, they use at most half of the memory.

        Args:
            endpoints: all endpoints with deliveries in flight.
        """
        slow = sum(each.bytes for each in endpoints if not each.slots.is_short)
        return min(self.bytes_left, MOST_BYTES // 2 - slow)

    def body_bytes(self, endpoint: EndpointRun) -> int:
        """Return the expected size of an endpoint's bodies: that of its last ones, or the average of all in flight."""
        return max(1, round(endpoint.body_bytes) or self.bytes // max(1, len(self._leases)))

    def delivery_ids(self) -> set[int]:
        """Return the ids of the deliveries, also of those whose leases end with a write that is not committed."""
        return {key.delivery_id for key in self._leases.keys() | self._ending}

    def take(self, lease: Lease) -> None:
        """Add a newly claimed lease."""
        self._leases[lease.key] = lease
        self._change_busy(lease, 1)
        endpoint, size = self._endpoints[lease.endpoint], len(lease.event.body)
        self.bytes += size
        endpoint.bytes += size
        endpoint.body_bytes += _WEIGHT * (size - endpoint.body_bytes) if endpoint.body_bytes else size

    def get(self, key: LeaseKey) -> Lease | None:
        """Return the current lease, including the attempts made since the claim; None once it is dropped."""
        return self._leases.get(key)

    def wait(self, lease: Lease) -> None:
        """Mark a lease as waiting for its retry."""
        self._waiting.add(lease.key)
        self._endpoints[lease.endpoint].retrying += 1
        self._change_busy(lease, -1)

    def resume(self, lease: Lease) -> None:
        """Mark a lease as no longer waiting, if it was."""
        if lease.key in self._waiting:
            self._stop_waiting(lease)
            self._change_busy(lease, 1)

    def count_attempt(self, lease: Lease, delay: float) -> bool:
        """Count an attempt that will be retried after this delay; return whether it is the lease's first."""
        if lease.key in self._leases:
            self._leases[lease.key] = replace(
                lease,
                attempts=lease.attempts + 1,
                round_attempts=lease.round_attempts + 1,
                last_delay=delay,
                backoff_until=None,
                begun_at=None,
            )
        is_first = lease.key not in self._retried
        self._retried.add(lease.key)
        return is_first

    def finish(self, lease: Lease) -> None:
        """Remove a lease whose delivery was delivered or given up."""
        self._endpoints[lease.endpoint].finished += 1
        self.drop(lease)

    def drop(self, lease: Lease) -> None:
        """Remove a lease, if it is still there."""
        if self._leases.pop(lease.key, None) is None:
            return
        endpoint, size = self._endpoints[lease.endpoint], len(lease.event.body)
        self.bytes -= size
        endpoint.bytes -= size
        self._retried.discard(lease.key)
        if endpoint.probe == lease.key:
            endpoint.probe = None
        if lease.key in self._waiting:
            self._stop_waiting(lease)
        else:
            self._change_busy(lease, -1)

    def end_with(self, written: asyncio.Future[set[LeaseKey]], leases: Sequence[Lease]) -> None:
        """Renew removed leases until the write that ends them, which may have to wait for a lock."""
        keys = {lease.key for lease in leases}
        self._ending |= keys
        written.add_done_callback(lambda _: self._ending.difference_update(keys))

    def _stop_waiting(self, lease: Lease) -> None:
        self._waiting.remove(lease.key)
        self._endpoints[lease.endpoint].retrying -= 1

    def _change_busy(self, lease: Lease, by: int) -> None:
        self._endpoints[lease.endpoint].busy += by
        self.total_busy += by
