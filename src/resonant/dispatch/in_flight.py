"""The deliveries of a run that are in flight: it holds their leases.

By lease, and not by delivery: where a lease ran out, and this very run claimed the delivery again, the two are not the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resonant.events import Lease, LeaseKey


class InFlight:
    """Leases, each busy (it is sent, or will be as soon as there is room) or waiting for its retry.

    Args:
        max_waiting: how many may wait for a retry.
    """

    def __init__(self, max_waiting: int = 1_000) -> None:
        self._max_waiting = max_waiting
        self._leases: dict[LeaseKey, Lease] = {}
        self._waiting: set[LeaseKey] = set()
        self._retried: set[LeaseKey] = set()
        self._busy: Counter[str] = Counter()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._leases)

    @property
    def bytes(self) -> int:
        """How many bytes the bodies have of all deliveries in flight."""
        return self._bytes

    @property
    def waiting(self) -> int:
        """How many wait for a retry."""
        return len(self._waiting)

    @property
    def may_wait(self) -> bool:
        """Whether one more may wait for a retry."""
        return self.waiting < self._max_waiting

    @property
    def total_busy(self) -> int:
        """How many are busy."""
        return self._busy.total()

    def busy(self, endpoint: str) -> int:
        """Return how many of an endpoint are busy."""
        return self._busy[endpoint]

    def busy_endpoints(self) -> set[str]:
        """Return the endpoints of which some are busy."""
        return {endpoint for endpoint, number in self._busy.items() if number}

    def delivery_ids(self) -> set[int]:
        """Return which deliveries there are."""
        return {key.delivery_id for key in self._leases}

    def take(self, lease: Lease) -> None:
        """Add a lease that was just claimed."""
        self._leases[lease.key] = lease
        self._busy[lease.endpoint] += 1
        self._bytes += len(lease.event.body)

    def get(self, key: LeaseKey) -> Lease | None:
        """Return the lease as it is now, with the attempts that were made; None once it is over."""
        return self._leases.get(key)

    def wait(self, lease: Lease) -> None:
        """Note that it waits for its retry from now on."""
        self._waiting.add(lease.key)
        self._busy[lease.endpoint] -= 1

    def resume(self, lease: Lease) -> None:
        """Note that it waits no longer, if it did."""
        if lease.key in self._waiting:
            self._waiting.remove(lease.key)
            self._busy[lease.endpoint] += 1

    def count_attempt(self, lease: Lease, delay: float) -> bool:
        """Count an attempt that will be followed by another after this delay; tell whether it is the first such."""
        if lease.key in self._leases:
            self._leases[lease.key] = replace(
                lease,
                attempts=lease.attempts + 1,
                round_attempts=lease.round_attempts + 1,
                last_delay=delay,
                backoff_until=None,
            )
        is_first = lease.key not in self._retried
        self._retried.add(lease.key)
        return is_first

    def drop(self, lease: Lease) -> None:
        """Forget a lease that is over, if it is not forgotten."""
        if self._leases.pop(lease.key, None) is None:
            return
        self._bytes -= len(lease.event.body)
        self._retried.discard(lease.key)
        if lease.key in self._waiting:
            self._waiting.remove(lease.key)
        else:
            self._busy[lease.endpoint] -= 1
