"""Makes an attempt of one flight: place, begin, send, record, settle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from resonant.dispatch.flights.counts import State
from resonant.dispatch.send.unsent import Expired, Held, LeaseLost, TimeIsUp, Unsent

if TYPE_CHECKING:
    from resonant.delivery.attempt import AttemptRunner
    from resonant.delivery.outcome import Outcome
    from resonant.dispatch.flights.flight import Flight
    from resonant.dispatch.send.admission import Admission
    from resonant.dispatch.send.recorder import Recorder
    from resonant.events import LeaseKey


@dataclass(slots=True, eq=False)
class Attempts:
    """Makes the attempts of one run, each of one flight.

    Attributes:
        attempt_runner: makes each attempt.
        admission: admits the sends.
        recorder: records each attempt.
    """

    attempt_runner: AttemptRunner
    admission: Admission
    recorder: Recorder

    async def attempt(self, key: LeaseKey, *, task_run_id: str | None = None) -> Outcome:
        """Make one attempt, and record it with its decision.

        Raises:
            LeaseLost: another worker has the delivery, or this worker has a newer lease.
            TimeIsUp: the run's time was up before the send; the delivery was released without charging an attempt.
            Expired: the event has expired; the delivery was given up without an attempt.
            Held: the endpoint's gate holds the delivery, which was released without charging an attempt.
            StoreUnavailable: the outcome could not be written; the delivery will be tried again.
        """
        flight = self.recorder.flights.get(key)
        if flight is None or flight.state not in (State.CLAIMED, State.ADMITTED, State.WAITING):
            raise LeaseLost
        try:
            return await self._attempt(flight, task_run_id)
        except Unsent:
            raise
        except Exception as error:
            self.recorder.running.fail(error)  # even if `emit_one` catches it
            raise

    async def _attempt(self, flight: Flight, task_run_id: str | None) -> Outcome:
        if flight.state is State.WAITING:
            flight.to(State.CLAIMED)
        try:
            outcome = await self.send(flight, task_run_id)
        except Unsent as why:
            await self.recorder.end(flight, why)
            raise
        # Record after freeing the slot, so that the next sends begin in the same transaction.
        if not await self.recorder.record(flight, outcome):
            self.recorder.lose(flight)
            raise LeaseLost
        self.recorder.settle(flight, outcome)
        return outcome

    async def send(
        self, flight: Flight, task_run_id: str | None, *, begun_at: float | None = None
    ) -> Outcome:
        """Place, begin and send a flight; return the outcome, which is not recorded yet.

        Args:
            begun_at: when it began, if it has a place and began ahead of its send.

        Raises:
            Unsent: nothing was sent.
            StoreUnavailable: the store did not recover in time.
        """
        if flight.state is State.ADMITTED:
            self.admission.start(flight)
        elif begun_at is None:
            await self.admission.admit(flight)
        outcome: Outcome | None = None
        try:
            if begun_at is None:
                begun_at = self.recorder.store.steady()
                await self._begin(flight)
            outcome = await self._send(flight, begun_at, task_run_id)
            return outcome
        finally:
            self.admission.leave(flight, State.CLAIMED if outcome is None else State.ANSWERED)

    async def _begin(self, flight: Flight) -> None:
        endpoint = flight.endpoint
        if not await self.recorder.begin([flight]):
            raise LeaseLost
        if not await endpoint.rate.wait(flight.place and flight.place.at):
            raise TimeIsUp
        if endpoint.rate.is_limited and endpoint.stops():
            raise Held(endpoint.gate.row)
        self.admission.begin(flight)

    async def _send(self, flight: Flight, begun_at: float, task_run_id: str | None) -> Outcome:
        # This process may have waited, or been suspended, for longer than the lease.
        store = self.recorder.store
        while store.steady() - begun_at > store.lease_seconds / 2:
            begun_at = store.steady()
            if not await self.recorder.begin([flight], again=True):
                raise LeaseLost
        lease, endpoint = flight.lease, flight.endpoint
        if lease.event.has_expired(store.clock()):
            endpoint.has_changed.set()
            raise Expired
        attempt = self.attempt_runner.attempt(
            lease,
            endpoint.destination,
            longest_wait=partial(self.recorder.longest_wait, flight),
            gate=partial(endpoint.view, lease.event.type),
            task_run_id=task_run_id,
        )
        return await self.admission.watch(endpoint, attempt)
