"""The heartbeat: renews in-flight leases in the background."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from resonant.errors import StoreError

if TYPE_CHECKING:
    from resonant.dispatch.in_flight import InFlight
    from resonant.store import WorkerStore


class LeaseHeartbeat:
    """Renews leases three times per lease duration.

    Args:
        store: the store with the leases.
        owner: the owner of the leases.
        in_flight: the leases to renew.
    """

    def __init__(self, store: WorkerStore, owner: str, in_flight: InFlight) -> None:
        self._store = store
        self._owner = owner
        self._in_flight = in_flight
        self._renewed_at = store.clock()

    async def beat(self) -> None:
        """Renew until cancelled. Raises only unexpected errors."""
        while True:
            await asyncio.sleep(self._store.lease_seconds / 3)
            if self._in_flight:
                with contextlib.suppress(StoreError):  # the next renewal or commit reports an outage
                    await self._renew()

    async def catch_up(self) -> None:
        """Renew now if a renewal is overdue, because the process was suspended or the clock jumped.

        Raises:
            StoreError: the leases cannot be renewed now.
        """
        if self._store.clock() - self._renewed_at > self._store.lease_seconds / 2:
            await self._renew()

    async def _renew(self) -> None:
        now = self._store.clock()
        # Only known leases: if the commit of a claim was not confirmed, its leases must expire, so that they are rescued.
        await self._store.renew(self._owner, self._in_flight.delivery_ids())
        self._renewed_at = now
