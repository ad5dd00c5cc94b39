"""Starts the task runs of claimed flights: each alone, or many in a chunk, once they may be sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resonant.dispatch.flights.chunk import Chunk
from resonant.dispatch.flights.counts import State
from resonant.dispatch.send.unsent import Held, TimeIsUp, Unsent
from resonant.events import Lease

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from resonant.dispatch.flights.flight import Flight
    from resonant.dispatch.limiting.alone import SentAlone
    from resonant.dispatch.run.running_tasks import RunningTasks
    from resonant.dispatch.send.admission import Admission
    from resonant.dispatch.send.recorder import Recorder

EmitOne = Callable[[Lease], Awaitable[None]]
EmitChunk = Callable[[Chunk], Awaitable[object]]


async def _start_none(_given: object) -> None:
    """Start no task run, before it is known how they start."""


@dataclass(slots=True, eq=False)
class Starter:
    """Starts the task runs of one run.

    Attributes:
        admission: admits each before its task run starts, so that this starts only to send.
        recorder: releases those that are not admitted.
        running: runs the tasks.
        alone: decides how many are sent alone.
        before_each: awaited before each flight that is sent alone; it may delay the flight.
        emit_one, emit_chunk: start a task run, of a flight and of a chunk.
        chunk_size: the most flights per chunk; 0 for no chunks.
    """

    admission: Admission
    recorder: Recorder
    running: RunningTasks
    alone: SentAlone
    before_each: Callable[[], Awaitable[None]]
    emit_one: EmitOne = _start_none
    emit_chunk: EmitChunk = _start_none
    chunk_size: int = 0

    def begin(self, emit_one: EmitOne, emit_chunk: EmitChunk | None = None, *, chunk_size: int = 0) -> None:
        """Set how task runs start."""
        self.emit_one, self.emit_chunk = emit_one, emit_chunk or _start_none
        self.chunk_size = 0 if emit_chunk is None else chunk_size

    def start(self, flights: list[Flight], now: float) -> None:
        """Start flights of one endpoint; give up the deliveries of expired events in the background."""
        if expired := [flight for flight in flights if flight.lease.event.has_expired(now)]:
            self.running.start(self._expire(expired))
            flights = [flight for flight in flights if not flight.lease.event.has_expired(now)]
        alone = self._number_alone(flights) if self.chunk_size else len(flights)
        # A delivery that may have crashed a worker is sent alone, so that it cannot crash a whole chunk again.
        flights = sorted(flights, key=lambda flight: not flight.lease.crashes)
        for flight in flights[:alone]:
            self.running.start(self._emit(flight))
        for first in range(alone, len(flights), self.chunk_size or 1):
            chunk = Chunk.of(flights[first].endpoint, flights[first : first + self.chunk_size])
            self.running.start(self._emit_all(chunk))

    def _number_alone(self, flights: list[Flight]) -> int:
        """Return how many are sent alone: all that may have crashed a worker, and some others."""
        crashed = sum(flight.lease.crashes > 0 for flight in flights)
        counts, now = self.recorder.flights.counts, asyncio.get_running_loop().time()
        waiting = counts.busy - counts.by_state[State.SENDING] - len(flights)
        return crashed + self.alone.start(len(flights) - crashed, now, waiting=waiting)

    async def _expire(self, flights: list[Flight]) -> None:
        await self.recorder.expire(flights)

    async def _emit(self, flight: Flight) -> None:
        with contextlib.suppress(Unsent):
            await self.before_each()
            async with self._admitted([flight]):
                await self.emit_one(flight.lease)
        if flight.has_ended:
            return
        if not flight.retried:
            raise RuntimeError(f"emit_one returned without attempting {flight.lease.event.id}")
        # `emit_one` did not wait for the retry: park the delivery, so that any worker can retry it when it is due.
        self.recorder.counts.parked += 1
        await self.recorder.release([flight])

    async def _emit_all(self, chunk: Chunk) -> None:
        keys = [flight.key for flight in chunk.flights]  # not the flights, which have bodies
        with contextlib.suppress(Unsent):
            async with self._admitted(chunk.flights):
                await self._release_rest(chunk)
                await self.emit_chunk(chunk)
        chunk.begin()
        for flight in filter(None, map(self.recorder.flights.get, keys)):
            raise RuntimeError(f"emit_chunk returned without attempting {flight.lease.event.id}")

    async def _release_rest(self, chunk: Chunk) -> None:
        if left := chunk.keep(_most_admitted(chunk)):
            await self.recorder.release(left)

    @contextlib.asynccontextmanager
    async def _admitted(self, flights: Sequence[Flight]) -> AsyncIterator[None]:
        """Wait until the first flight may be sent, and keep its place for its attempt in the block.

        Raises:
            TimeIsUp, Held: all flights were released without charging an attempt.
        """
        key = flights[0].key
        try:
            await self.admission.admit(flights[0], starts=True)
        except (TimeIsUp, Held):
            await self.recorder.release(flights)
            raise
        try:
            yield
        finally:
            first = self.recorder.flights.get(key)
            if first is not None and first.state is State.ADMITTED:
                self.admission.leave(first)


def _most_admitted(chunk: Chunk) -> int:
    """Return how many flights of a chunk the gate would admit soon, including the first, which is admitted."""
    endpoint, number = chunk.endpoint, len(chunk.flights)
    if not endpoint.governs() or chunk.flights[0].is_probe:
        return number
    others = endpoint.flights.waiting - (number - 1)
    return 1 + (0 if endpoint.stops() else max(0, endpoint.most_waiting() - others))
