"""The heartbeat: renews in-flight leases in the background."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from resonant.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from resonant.dispatch.in_flight import InFlight
    from resonant.store import WorkerStore


class LeaseHeartbeat:
    """Renews leases three times per lease duration.

    Args:
        store: the store with the leases.
        owner: the owner of the leases.
        in_flight: the leases to renew.
        on_failure: called with an unexpected error, which stops the renewals.
    """

    def __init__(
        self, store: WorkerStore, owner: str, in_flight: InFlight, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._store = store
        self._owner = owner
        self._in_flight = in_flight
        self._on_failure = on_failure
        self._renewed_at = store.clock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start renewing in the background."""
        self._task = asyncio.create_task(self._renew_loop())
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop renewing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def catch_up(self) -> None:
        """Renew now if a renewal is overdue, because the process was suspended or the clock jumped.

        Raises:
            StoreError: the leases cannot be renewed now.
        """
        if self._store.clock() - self._renewed_at > self._store.lease_seconds / 2:
            await self._renew()

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self._store.lease_seconds / 3)
            if self._in_flight:
                with contextlib.suppress(StoreError):  # the next renewal or commit reports an outage
                    await self._renew()

    async def _renew(self) -> None:
        now = self._store.clock()
        # Only known leases: if the commit of a claim was not confirmed, its leases must expire, so that they are rescued.
        await self._store.renew(self._owner, self._in_flight.delivery_ids())
        self._renewed_at = now

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)
