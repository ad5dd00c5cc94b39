"""Renews the leases in flight, and takes over deliveries from lost workers."""

import asyncio
from collections.abc import Callable

from resonant.dispatch.flights.flights import Flights
from resonant.errors import StillLocked, StoreError
from resonant.store import WorkerStore
from resonant.store.queue.rescue import ExpiryWatch
from resonant.store.shared import drains
from resonant.store.shared.processes import has_ended

# How often expired leases are rescued, which takes the store's write lock.
RESCUE_SECONDS = 1.0
# The pause after a failed renewal is this many times shorter, since the store may be available only briefly between two
# outages.
_TRIES_PER_PAUSE = 10
# The bounds of one wait for the leases of other workers.
_SHORTEST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 0.25


class LeaseHeartbeat:
    """Renews leases three times per lease duration.

    Args:
        store: the store with the leases.
        flights: the flights whose leases to renew.
    """

    def __init__(self, store: WorkerStore, owner: str, flights: Flights) -> None:
        self._store = store
        self._owner = owner
        self._flights = flights
        self._renewed_at = store.clock()

    async def beat(self) -> None:
        """Renew until cancelled. Raises only unexpected errors."""
        pause = self._store.lease_seconds / 3
        while True:
            await asyncio.sleep(pause)
            pause = self._store.lease_seconds / 3
            if self._flights:
                try:
                    if left := await self._renew_in_time():
                        # Rescues skip locked deliveries, too, but may be faster afterwards, unless this waits for the lock.
                        # It may wait for several locks, one after the other, while the other leases must be renewed.
                        async with asyncio.timeout(self._store.lease_seconds / 2):
                            await self._store.renew(self._owner, left)
                except (StillLocked, TimeoutError):
                    pause = 0.0  # it has waited, and a rescue must not be faster in a pause
                except StoreError:  # the next renewal or commit reports an outage
                    pause /= _TRIES_PER_PAUSE

    async def catch_up(self) -> None:
        """Renew now if a renewal is overdue, because the process was suspended or the clock jumped.

        Raises:
            StoreError: the leases cannot be renewed now.
        """
        if self._store.clock() - self._renewed_at > self._store.lease_seconds / 2:
            await self._renew()

    async def _renew_in_time(self) -> set[int]:
        """Renew like ``_renew``, and begin a second time if there is no answer for a third of a lease.

        A connection that is lost within a transaction is silent until the driver's limit, which may be after the end of the leases.
        """
        tries = [asyncio.create_task(self._renew())]
        try:
            done, _ = await asyncio.wait(tries, timeout=self._store.lease_seconds / 3)
            if not done:
                tries.append(asyncio.create_task(self._renew()))
                done, _ = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for each in tries:
                each.cancel()
            await asyncio.gather(*tries, return_exceptions=True)

    async def _renew(self) -> set[int]:
        """Renew the leases that no other transaction has locked; return the other deliveries."""
        now = self._store.clock()
        # Only known leases: if the commit of a claim was not confirmed, its leases must expire, so that they are rescued.
        known = {key.delivery_id for key in self._flights.lease_keys()}
        renewed = await self._store.renew(self._owner, known, skip_locked=True)
        self._renewed_at = now
        return known.difference(renewed)


class TakeOver:
    """Rescues expired leases, and waits for live ones to end.

    Args:
        store: the store with the leases.
        heartbeat: renews the run's own leases before expired ones are rescued.
        has_ended: returns whether the process with this name has ended for sure.
        endpoint: the only endpoint to take over from; None for all.
        on_waiting: called once if other workers hold the remaining deliveries, with the end of their last lease.
    """

    def __init__(
        self,
        store: WorkerStore,
        heartbeat: LeaseHeartbeat,
        has_ended: Callable[[str], bool] = has_ended,
        *,
        endpoint: str | None,
        on_waiting: Callable[[float], None],
    ) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._has_ended = has_ended
        self._endpoint = endpoint
        self._on_waiting: Callable[[float], None] | None = on_waiting
        self._expiry = ExpiryWatch(store.lease_seconds, asyncio.get_running_loop().time)
        self._rescue_at = self._rescue_ended_at = 0.0

    async def rescue_if_due(self) -> None:
        """Rescue expired leases, and at once those of ended processes of this machine, unless that was done recently.

        Raises:
            StoreUnavailable: the store became unreachable.
        """
        loop = asyncio.get_running_loop()
        if loop.time() >= self._rescue_at:
            await self._heartbeat.catch_up()  # so that the rescue does not take this run's leases
            await self._store.rescue(self._expiry, endpoint=self._endpoint)
            self._rescue_at = loop.time() + RESCUE_SECONDS
        if loop.time() >= self._rescue_ended_at:
            await self._store.rescue_ended(self._has_ended)
            self._rescue_ended_at = loop.time() + drains.BEAT_SECONDS

    async def wait_for_leases(self) -> bool:
        """Wait briefly if other workers hold deliveries that this run may still get; return whether they do."""
        until = await self._store.latest_lease_end(self._endpoint)
        if until is None:
            return False
        until = max(until, self._store.clock() + self._expiry.seconds_left)
        if self._on_waiting is not None:
            self._on_waiting(until)
            self._on_waiting = None
        seconds = max(_SHORTEST_WAIT_SECONDS, until - self._store.clock())
        await asyncio.sleep(min(_LONGEST_WAIT_SECONDS, seconds))
        return True
