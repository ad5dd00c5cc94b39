"""The in-flight leases of one run.

The key is the lease, not the delivery: a run may lose a lease and claim the same delivery again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resonant.dispatch.endpoint_run import EndpointRun
    from resonant.events import Lease, LeaseKey


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

    def __bool__(self) -> bool:
        return bool(self._leases)

    @property
    def may_wait(self) -> bool:
        """Whether one more lease may wait for a retry."""
        return len(self._waiting) < self._max_waiting

    def delivery_ids(self) -> set[int]:
        """Return the ids of the deliveries."""
        return {key.delivery_id for key in self._leases}

    def take(self, lease: Lease) -> None:
        """Add a newly claimed lease."""
        self._leases[lease.key] = lease
        self._change_busy(lease, 1)
        self.bytes += len(lease.event.body)

    def get(self, key: LeaseKey) -> Lease | None:
        """Return the current lease, including the attempts made since the claim; None once it is dropped."""
        return self._leases.get(key)

    def wait(self, lease: Lease) -> None:
        """Mark a lease as waiting for its retry."""
        self._waiting.add(lease.key)
        self._change_busy(lease, -1)

    def resume(self, lease: Lease) -> None:
        """Mark a lease as no longer waiting, if it was."""
        if lease.key in self._waiting:
            self._waiting.remove(lease.key)
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
        self.bytes -= len(lease.event.body)
        self._retried.discard(lease.key)
        endpoint = self._endpoints[lease.endpoint]
        if endpoint.probe == lease.key:
            endpoint.probe = None
        if lease.key in self._waiting:
            self._waiting.remove(lease.key)
        else:
            self._change_busy(lease, -1)

    def _change_busy(self, lease: Lease, by: int) -> None:
        self._endpoints[lease.endpoint].busy += by
        self.total_busy += by
