"""Admits sends: each needs the permission of the endpoint's gate, and a free slot in this process."""

import contextlib
from collections.abc import Awaitable
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import inf

from resonant.delivery.outcome import Outcome
from resonant.dispatch.flights.counts import State
from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.dispatch.flights.flight import Flight, Place
from resonant.dispatch.gate_rows import GateRows
from resonant.dispatch.limiting.limiter import ConcurrencyLimiter, Slot
from resonant.dispatch.run.running_tasks import RunningTasks
from resonant.dispatch.send.loop_lag import LoopLag
from resonant.dispatch.send.unsent import Held, TimeIsUp
from resonant.dispatch.waiting import wait_at_most
from resonant.errors import NotReady, StoreError
from resonant.gate.measurements import Answer
from resonant.gate.permission import RELEASE, SEND, Permission, Wait

# How often the first waiting send of an endpoint checks whether the run has ended.
_LONGEST_WAIT_SECONDS = 0.25
# The shortest time between two checks of a send that waits for the pace, which allows small bursts.
_SHORTEST_WAIT_SECONDS = 0.005
# The most task runs of an endpoint that are starting. They send even if the gate closes meanwhile.
_MOST_STARTING = 8
_NOT_MEASURED = nullcontext(lambda: 0.0)


@dataclass(slots=True, eq=False)
class Admission:
    """Admits the sends of one run.

    Attributes:
        gates: the rows of the gates.
        limiter: limits concurrent sends.
        running: tells whether the run is over.
    """

    gates: GateRows
    limiter: ConcurrencyLimiter
    running: RunningTasks
    _lag: LoopLag = field(default_factory=LoopLag)

    async def admit(self, flight: Flight, *, is_begun: bool = False, starts: bool = False) -> None:
        """Wait for a slot of the endpoint's rate, the gate and a free slot. Once the run is over, do not wait for the gate.

        The deliveries of an endpoint wait in line, and only the first asks the gate. A probe has a slot of its own.

        Args:
            is_begun: whether its send was recorded as begun; it then waits only for the first answers, and for a slot.
            starts: whether its task run starts afterwards; it waits while many task runs of the endpoint are starting.

        Raises:
            Held: the gate holds the delivery, or nothing can be sent to the endpoint.
            TimeIsUp: the run is over.
        """
        endpoint = flight.endpoint
        at = await endpoint.rate.take()
        try:
            is_probe = flight.is_probe
            async with nullcontext() if is_probe else endpoint.turn:
                slot = await self._slot(flight, is_probe=is_probe, is_begun=is_begun, starts=starts)
        except BaseException:
            endpoint.rate.free(at)
            raise
        flight.place = Place(at, slot)
        flight.to(State.ADMITTED if starts else State.SENDING)
        if self.running.is_over():
            self.leave(flight)
            raise TimeIsUp

    def start(self, flight: Flight) -> None:
        """Note that the task run of an admitted flight has started."""
        flight.to(State.SENDING)
        flight.endpoint.has_changed.set()

    def leave(self, flight: Flight, state: State = State.CLAIMED) -> None:
        """Give back the flight's place."""
        if flight.state is State.ADMITTED:
            flight.endpoint.has_changed.set()
        flight.to(state)
        if flight.place is not None:
            self.limiter.release(flight.place.slot)
            flight.endpoint.rate.free(flight.place.at)
            flight.place = None

    async def _slot(self, flight: Flight, *, is_probe: bool, is_begun: bool, starts: bool) -> Slot:
        endpoint = flight.endpoint
        while True:
            endpoint.has_changed.clear()
            is_over = self.running.is_over()
            if starts and endpoint.flights.starting >= _MOST_STARTING and not is_over:
                await wait_at_most(_LONGEST_WAIT_SECONDS, endpoint.has_changed)
                continue
            permission = SEND if is_over else await self._permission(flight, is_probe=is_probe)
            if permission == RELEASE or (is_begun and endpoint.governs()):
                raise Held(endpoint.gate.row)
            if isinstance(permission, Wait):
                # A normal gate waits for answers, and a line that is paced for the next moment.
                seconds = max(permission.seconds, _SHORTEST_WAIT_SECONDS) if endpoint.governs() else inf
                await wait_at_most(min(seconds, _LONGEST_WAIT_SECONDS), endpoint.has_changed)
                continue
            if not is_over:
                await self._prepare(endpoint)
            epoch = endpoint.gate.row.epoch
            slot = await self.limiter.acquire(endpoint.slots, is_probe=is_probe, starts=starts)
            is_same = is_probe or endpoint.gate.row.epoch == epoch
            if (is_same and endpoint.is_ready()) or self.running.is_over():
                return slot
            # The gate changed, or the token expired, during the wait for the slot.
            self.limiter.release(slot)

    async def _prepare(self, endpoint: EndpointRun) -> None:
        """Wait until the endpoint is ready for a send."""
        if endpoint.destination.prepare is not None:
            try:
                await endpoint.destination.prepare()
            except NotReady as missing:
                raise Held(endpoint.gate.row, str(missing)) from None

    def begin(self, flight: Flight) -> None:
        """Note that an admitted send begins: the start of its task run is no part of the wait for its answer."""
        if flight.place is not None:
            self.limiter.begin(flight.place.slot)

    async def _permission(self, flight: Flight, *, is_probe: bool) -> Permission:
        endpoint = flight.endpoint
        with contextlib.suppress(StoreError):  # the send will raise the error
            await self.gates.read_if_old()
        await self.gates.wait_for_changes_of(endpoint)
        now = endpoint.clock()
        if is_probe:
            return SEND if endpoint.gate.may_send_probe(now) else RELEASE
        if flight.lease.event.type in endpoint.gate.failing():
            return RELEASE
        counts = endpoint.flights
        permission = endpoint.gate.may_send(now, counts.sending, counts.starting)
        if isinstance(permission, Wait) and endpoint.governs() and counts.waiting > endpoint.most_waiting():
            return RELEASE  # too many sends wait: the pace was cut, or retries became due
        return permission

    async def watch(self, endpoint: EndpointRun, attempt: Awaitable[Outcome]) -> Outcome:
        """Await an attempt of an admitted send, and pass its answer to the gate."""
        gate, clock = endpoint.gate, endpoint.clock
        sent = gate.sent(clock())
        # Only a pace depends on the durations of answers.
        with self._lag.measured() if gate.row.state == "paced" else _NOT_MEASURED as lag:
            outcome = await attempt
            duration = max(0.0, outcome.attempt.duration - lag())
        status_code, lease = outcome.attempt.status_code, outcome.lease
        answer = Answer(outcome.verdict, status_code, duration, lease.delivery_id, lease.event.type)
        has_failed = not (answer.works or answer.is_local)
        self.limiter.note_send(endpoint.slots, outcome.attempt.duration, has_failed=has_failed)
        endpoint.has_changed.set()
        if (change := gate.answered(sent, answer, clock())) is not None:
            self.gates.propose(change)
        return outcome
