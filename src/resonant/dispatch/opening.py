"""Opens one endpoint of a run, with all that limits its sends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resonant.dispatch.flights.counts import FlightCounts
from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.dispatch.limiting.ahead import FIRST_CHUNK, FIRST_CLAIM, ClaimSize, PrefetchWindow
from resonant.dispatch.limiting.rate import NoRate, Rate
from resonant.gate.controller import EndpointGate
from resonant.store.shared.send_slots import reserve

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from resonant.delivery.attempt import Destination
    from resonant.dispatch.flights.flights import Flights
    from resonant.dispatch.gate_rows import GateRows
    from resonant.dispatch.limiting.limiter import ConcurrencyLimiter
    from resonant.dispatch.run.running_tasks import RunningTasks
    from resonant.store import WorkerStore
    from resonant.store.shared.send_slots import Reservation


@dataclass(slots=True, eq=False)
class Opener:
    """Opens the endpoints of a run.

    Attributes:
        store: has the slots of rates, and the clock.
        owner: the id of the run.
        rng: draws the times of probes.
        open_destination: opens an endpoint's destination by name.
        limiter: has the slots of this process.
        gates: the rows of the gates.
        flights: the flights of the run.
        running: tells whether the run is over.
        with_chunks: returns whether the run sends chunks.
    """

    store: WorkerStore
    owner: str
    rng: random.Random
    open_destination: Callable[[str], Awaitable[Destination]]
    limiter: ConcurrencyLimiter
    gates: GateRows
    flights: Flights
    running: RunningTasks
    with_chunks: Callable[[], bool]
    # Others need connections of the store, too, while a transaction locks the slots of many endpoints.
    _reserving: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4))

    async def open(self, name: str) -> EndpointRun:
        """Open an endpoint; its row must be in ``gates``."""
        destination = await self.open_destination(name)
        slots = self.limiter.slots(destination.concurrency)
        rate: Rate | NoRate = NoRate()
        if destination.rate is not None:
            clock, is_over = self.store.clock, self.running.is_over
            rate = Rate(name, destination.rate, slots.limit, self._reserve, clock=clock, is_over=is_over)
        return EndpointRun(
            name,
            destination,
            gate=EndpointGate(self.gates.rows[name], self.owner, self.rng),
            slots=slots,
            rate=rate,
            window=PrefetchWindow(slots.limit),
            claims=ClaimSize(FIRST_CHUNK if self.with_chunks() else FIRST_CLAIM),
            clock=self.store.clock,
            flights=FlightCounts(self.flights.counts),
        )

    async def _reserve(self, endpoint: str, **options: Any) -> Reservation:
        async def reserve_once() -> Reservation:
            async with self._reserving:
                return await self.store.write(reserve, endpoint, clock=self.store.clock, **options)

        return await self.running.outlast(reserve_once, self.store.lease_seconds / 3)
