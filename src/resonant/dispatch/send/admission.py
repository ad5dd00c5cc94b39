"""Admits sends: each needs the permission of the endpoint's gate, and a free slot in this process."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from resonant.dispatch.send.loop_lag import LoopLag
from resonant.dispatch.waiting import wait_at_most
from resonant.errors import StoreError
from resonant.gate.measurements import Answer
from resonant.gate.permission import RELEASE, SEND, NoLimit, Release, Wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from resonant.delivery.outcome import Outcome
    from resonant.dispatch.endpoint_run import EndpointRun
    from resonant.dispatch.gate_rows import GateRows
    from resonant.dispatch.limiting.limiter import ConcurrencyLimiter, Slot
    from resonant.dispatch.run.running_tasks import RunningTasks
    from resonant.events import Clock, Lease
    from resonant.gate.permission import Permission
    from resonant.store.shared.gates import Gate

# How often the first waiting send of an endpoint checks whether the run has ended.
_LONGEST_WAIT_SECONDS = 0.25
# The shortest time between two checks of a send that waits for the pace, which allows small bursts.
_SHORTEST_WAIT_SECONDS = 0.005

_NOT_MEASURED = nullcontext(lambda: 0.0)


class Held(Exception):
    """The gate holds the delivery, which is released without charging an attempt.

    Attributes:
        gate: the row of the endpoint's gate.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate)
        self.gate = gate


class Admission:
    """Admits the sends of one run.

    Args:
        gates: the rows of the gates.
        limiter: limits concurrent sends.
        running: tells whether the run is over.
        clock: the clock that all processes of the store share.
    """

    def __init__(
        self, gates: GateRows, limiter: ConcurrencyLimiter, running: RunningTasks, clock: Clock
    ) -> None:
        self._gates = gates
        self._limiter = limiter
        self._running = running
        self._clock = clock
        self._lag = LoopLag()

    @asynccontextmanager
    async def admit(
        self, endpoint: EndpointRun, lease: Lease, *, is_begun: bool = False
    ) -> AsyncIterator[None]:
        """Wait for the gate and for a free slot, then hold the slot. Once the run is over, do not wait for the gate.

        The deliveries of an endpoint wait in line, and only the first asks the gate. A probe has a slot of its own.

        Args:
            is_begun: whether its send was recorded as begun; it then waits only for the first answers, and for a slot.

        Raises:
            Held: the gate holds the delivery.
        """
        is_probe = endpoint.probe == lease.key
        async with nullcontext() if is_probe else endpoint.turn:
            slot = await self._slot(endpoint, is_probe=is_probe, is_begun=is_begun)
        endpoint.sending += 1
        try:
            yield
        finally:
            endpoint.sending -= 1
            self._limiter.release(slot)

    async def _slot(self, endpoint: EndpointRun, *, is_probe: bool, is_begun: bool) -> Slot:
        while True:
            endpoint.has_changed.clear()
            is_over = self._running.is_over()
            permission = SEND if is_over else await self._permission(endpoint, is_probe=is_probe)
            if isinstance(permission, Release) or (is_begun and endpoint.governs()):
                raise Held(endpoint.gate.row)
            if isinstance(permission, Wait):
                # A normal gate waits for answers, and a line that is paced for the next moment.
                seconds = _LONGEST_WAIT_SECONDS
                if endpoint.governs():
                    seconds = min(seconds, max(permission.seconds, _SHORTEST_WAIT_SECONDS))
                await wait_at_most(seconds, endpoint.has_changed)
                continue
            epoch = endpoint.gate.row.epoch
            slot = await self._limiter.acquire(endpoint.slots, is_probe=is_probe)
            if is_probe or endpoint.gate.row.epoch == epoch or self._running.is_over():
                return slot
            self._limiter.release(slot)  # the gate changed during the wait for the slot

    async def _permission(self, endpoint: EndpointRun, *, is_probe: bool) -> Permission:
        with contextlib.suppress(StoreError):  # the send will raise the error
            await self._gates.read_if_old()
        await self._gates.wait_for_changes_of(endpoint)
        if endpoint.gate.row.state == "probing" and not is_probe:
            return RELEASE
        now = self._clock()
        permission = endpoint.gate.may_send(now, endpoint.sending)
        if isinstance(permission, Wait):
            limit = endpoint.gate.claim_limit(now, 0)
            if not isinstance(limit, NoLimit) and endpoint.waiting > limit:
                return RELEASE  # too many sends wait: the pace was cut, or retries became due
        return permission

    async def watch(self, endpoint: EndpointRun, attempt: Awaitable[Outcome]) -> Outcome:
        """Await an attempt of an admitted send, and pass its answer to the gate."""
        gate = endpoint.gate
        sent = gate.sent(self._clock())
        # Only a pace depends on the durations of answers.
        with self._lag.measured() if gate.row.state == "paced" else _NOT_MEASURED as lag:
            outcome = await attempt
            duration = max(0.0, outcome.attempt.duration - lag())
        answer = Answer(outcome.verdict, outcome.attempt.status_code, duration, outcome.lease.delivery_id)
        has_failed = not (answer.works or answer.is_local)
        self._limiter.note_send(endpoint.slots, outcome.attempt.duration, has_failed=has_failed)
        endpoint.has_changed.set()
        change = gate.answered(sent, answer, self._clock(), endpoint.sending - 1)
        if change is not None:
            self._gates.propose(endpoint, change)
        return outcome
