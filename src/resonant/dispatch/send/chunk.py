"""Makes an attempt of each flight of a chunk, with the same steps as for one flight."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from resonant.dispatch.send.ahead import all_of, send_ahead
from resonant.dispatch.send.unsent import Expired, Held, LeaseLost, TimeIsUp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resonant.delivery.outcome import Outcome
    from resonant.dispatch.flights.chunk import Chunk
    from resonant.dispatch.flights.flight import Flight
    from resonant.dispatch.send.attempt import Attempts
    from resonant.events import LeaseKey


@dataclass(slots=True, eq=False)
class ChunkAttempt:
    """Makes one attempt of each delivery in a chunk, with the steps of ``Attempts``, and parks every retry.

    Attributes:
        chunk: the chunk; its flights are taken from it as they begin.
        attempts: has the steps.
        task_run_id: stored in the history.
        writing: the pending writes of attempts and releases.
    """

    chunk: Chunk
    attempts: Attempts
    task_run_id: str | None
    writing: list[asyncio.Future[Any]] = field(default_factory=list)

    async def make(self) -> Chunk:
        """Make the attempts, and return the chunk with its outcomes.

        Raises:
            StoreUnavailable: outcomes could not be written; these deliveries will be tried again.
        """
        self.chunk.begin()
        flights, endpoint, counts = self.chunk.flights, self.chunk.endpoint, self.chunk.counts
        running = self.attempts.recorder.running
        try:
            # The first was admitted before its task run started.
            works = [self._send(flights.popleft())] if flights else []
            if endpoint.governs() or endpoint.rate.is_limited:
                # Do not begin deliveries ahead of their sends: a crash charges an attempt to each begun delivery.
                works += [self._send(flights.popleft()) for _ in range(len(flights))]
            elif flights:
                ahead = send_ahead(
                    flights,
                    begin=self.attempts.recorder.begin,
                    admit=self._admit,
                    send=self._send,
                    on_lost=self._lose,
                    on_left=self._release,
                    window=endpoint.window,
                    clock=self.attempts.recorder.store.steady,
                    is_over=lambda: running.is_over() or endpoint.governs(),
                )
                works.append(ahead)
            await all_of(works)
            self.attempts.recorder.commits.hurry()
            await asyncio.gather(*self.writing)
            await asyncio.sleep(0)  # gather returns at once, before their callbacks, if all are done
        except Exception as error:
            running.fail(error)  # even if `emit_chunk` catches it
            raise
        if not running.is_over():
            counts.held, counts.left = counts.left, 0
        return self.chunk

    async def _admit(self, flight: Flight) -> bool:
        try:
            await self.attempts.admission.admit(flight, is_begun=True)
        except (TimeIsUp, Held):
            self._release([flight])
            return False
        return True

    async def _send(self, flight: Flight, begun_at: float | None = None) -> None:
        """Send a flight, and record its outcome without waiting for the commit."""
        recorder = self.attempts.recorder
        try:
            outcome = await self.attempts.send(flight, self.task_run_id, begun_at=begun_at)
        except (TimeIsUp, Held):
            self._release([flight])
        except LeaseLost:
            self._lose(flight)
        except Expired:
            self.writing.append(recorder.expire([flight], self.chunk.counts))
        else:
            recorded = recorder.record(flight, outcome, is_urgent=False)
            recorded.add_done_callback(partial(self._settle, flight, outcome))
            self.writing.append(recorded)

    def _settle(self, flight: Flight, outcome: Outcome, recorded: asyncio.Future[set[LeaseKey]]) -> None:
        if recorded.cancelled() or recorded.exception() is not None:
            return
        if not recorded.result():
            self._lose(flight)
            return
        self.attempts.recorder.settle(flight, outcome)
        self.chunk.note(outcome)

    def _release(self, flights: Sequence[Flight]) -> None:
        """Release leases at once, since the chunk may wait for slow answers."""
        if not flights:
            return
        self.chunk.counts.left += len(flights)
        releasing = self.attempts.recorder.release(flights)
        # After an earlier error, nothing awaits this future, and asyncio would log its error.
        releasing.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.writing.append(releasing)

    def _lose(self, flight: Flight) -> None:
        self.attempts.recorder.lose(flight)
        self.chunk.counts.lost += 1
