"""Admits sends: each needs a free slot in this process and the permission of the endpoint's gate.

The controller of a gate (``EndpointGate``) only proposes changes. The gatekeeper writes them with compare-and-set. If
another process was faster, it drops the change and passes that process's row to the controller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from resonant.delivery.retry import GateView
from resonant.dispatch.loop_lag import LoopLag
from resonant.errors import StoreError
from resonant.gate.controller import EndpointGate
from resonant.gate.measurements import Answer
from resonant.gate.permission import RELEASE, SEND, NoLimit, Release, Send, Wait
from resonant.store.queue.probes import claim_probe
from resonant.store.shared.gates import Gate, holds_for_long, try_changes

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping

    from resonant.delivery.attempt import Report
    from resonant.dispatch.in_flight import InFlight
    from resonant.dispatch.limiter import ConcurrencyLimiter, Slot
    from resonant.dispatch.running_tasks import RunningTasks
    from resonant.events import Lease, LeaseKey
    from resonant.gate.permission import Permission
    from resonant.store import WorkerStore
    from resonant.store.shared.gates import GateChange

    OnGateChange = Callable[[Gate, Gate], None]

logger = logging.getLogger(__name__)

# How often the first waiting send of an endpoint checks whether the run has ended.
_LONGEST_WAIT_SECONDS = 0.25
# The shortest time between two checks of a send that waits for the pace, which allows small bursts.
_SHORTEST_WAIT_SECONDS = 0.005

# The maximum age of the known gates when a send begins, in seconds.
_OVERDUE_SECONDS = 0.5
# The most changes in one transaction, so that outcomes do not wait long for it.
_MOST_CHANGES = 16


class _Line:
    """The deliveries of one endpoint that wait for its gate, in order of arrival."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.has_changed = asyncio.Event()

    async def change(self, seconds: float) -> None:
        """Wait until an answer or the gate has changed what the gate allows, for at most this many seconds."""
        with contextlib.suppress(TimeoutError):
            # Not wait_for: Python 3.11's may lose a cancellation.
            async with asyncio.timeout(seconds):
                await self.has_changed.wait()


_NOT_MEASURED = contextlib.nullcontext(lambda: 0.0)


class Held(Exception):
    """The gate holds the delivery, which is released without charging an attempt.

    Attributes:
        gate: the endpoint's gate.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate)
        self.gate = gate


class Gatekeeper:
    """Admits the sends of one run.

    Args:
        store: has one row per gate.
        owner: the id of this run, recorded when it is a gate's pilot.
        limiter: limits concurrent sends.
        in_flight: the leases of the run.
        rng: randomizes the times of probes.
        on_change: called with the old and the new gate after this run has changed a gate's state.
        running: receives errors, which end the run.

    Attributes:
        limiter: the limiter of concurrent sends.
        keeps_place: whether this run may stay the pilot. A run that sends only some deliveries must not, or the rest would
            wait until it ends.
    """

    def __init__(
        self,
        store: WorkerStore,
        owner: str,
        *,
        limiter: ConcurrencyLimiter,
        in_flight: InFlight,
        rng: random.Random,
        on_change: OnGateChange,
        running: RunningTasks,
    ) -> None:
        self._store = store
        self._owner = owner
        self.limiter = limiter
        self.keeps_place = True
        self._in_flight = in_flight
        self._rng = rng
        self._on_change = on_change
        self._running = running
        self._rows: Mapping[str, Gate] = {}
        self._looked_at = -math.inf
        self._looking = asyncio.Lock()
        self._gates: dict[str, EndpointGate] = {}
        self._lines = defaultdict[str, _Line](_Line)
        self._probes: dict[str, LeaseKey] = {}
        self._sending = Counter[str]()
        self._proposed: dict[str, GateChange] = {}
        self._writing: dict[str, GateChange] = {}
        self._written = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._lag = LoopLag()

    def view(self, endpoint: str) -> GateView:
        """Return the state of the gate for a decision."""
        gate = self._of(endpoint)
        return GateView(governs=gate.governs(self._store.shared_clock()), is_down=gate.row.state == "probing")

    def governs(self, endpoint: str) -> bool:
        """Return whether the gate holds deliveries or paces them."""
        return self._of(endpoint).governs(self._store.shared_clock())

    def holds_shortly(self, endpoint: str) -> bool:
        """Return whether the gate holds deliveries only briefly, so that a run waits for them."""
        gate, now = self._of(endpoint), self._store.shared_clock()
        return gate.governs(now) and not holds_for_long(gate.row, now)

    def room(self, endpoint: str) -> int | NoLimit:
        """Return how many deliveries to claim."""
        return self._of(endpoint).claim_limit(self._store.shared_clock(), self._waiting(endpoint))

    async def look(self, rows: Mapping[str, Gate], due: Collection[str]) -> None:
        """Update the gates from the store, and renew this run's pilot leases.

        Args:
            rows: the gates, keyed by endpoint.
            due: the endpoints with due deliveries.

        Raises:
            StoreUnavailable: the store became unreachable.
        """
        self._rows = rows
        self._looked_at = time.monotonic()
        changes = []
        for name in {*due, *self._in_flight.busy_endpoints(), *self._gates}:
            gate = self._of(name)
            self._see(rows.get(name, Gate(name)))
            if name in due or self._in_flight.busy(name) or gate.row.pilot == self._owner:
                now = self._store.shared_clock()
                change = gate.look(now) if self.keeps_place else gate.leave(now)
                changes += [] if change is None else [change]
        await self._write(changes)

    async def look_at_sends(self) -> None:
        """Refresh the gates of all endpoints with deliveries in flight.

        Raises:
            StoreUnavailable: the store became unreachable.
        """
        await self.look(await self._store.gates(), ())

    async def probe(self, endpoint: str) -> Lease | None:
        """Claim a delivery to send as a probe, if a probe is due.

        Raises:
            StoreUnavailable: the store became unreachable.
        """
        gate = self._of(endpoint)
        last = self._probes.get(endpoint)
        if gate.may_probe and last is not None and self._in_flight.get(last) is not None:
            return None  # the last probe is not sent yet
        change = gate.probe(self._store.shared_clock())
        if change is None:
            return None
        claimed = await self._store.claim_leases(claim_probe, change, owner=self._owner)
        if claimed is None:
            return None
        lease, row = claimed
        self._see(row)
        self._probes[endpoint] = lease.key
        return lease

    @asynccontextmanager
    async def admit(self, lease: Lease, *, is_begun: bool = False) -> AsyncIterator[None]:
        """Wait for the gate and for a free slot, then hold the slot. Once the run is over, do not wait for the gate.

        The deliveries of an endpoint wait in line, and only the first asks the gate. A probe has a slot of its own.

        Args:
            lease: the delivery.
            is_begun: whether its send was recorded as begun; it then waits only for the first answers, and for a slot.

        Raises:
            Held: the gate holds the delivery.
        """
        name = lease.endpoint
        is_probe = self._probes.get(name) == lease.key
        async with nullcontext() if is_probe else self._lines[name].turn:
            slot = await self._admit(lease, is_probe=is_probe, is_begun=is_begun)
        try:
            with self.sending(lease):
                yield
        finally:
            self.limiter.release(slot)

    async def _admit(self, lease: Lease, *, is_probe: bool, is_begun: bool) -> Slot:
        name = lease.endpoint
        line = self._lines[name]
        while True:
            line.has_changed.clear()
            permission = SEND if self._running.is_over() else await self._permission(lease)
            if isinstance(permission, Release) or (is_begun and self.governs(name)):
                raise Held(self.gate(name))
            if isinstance(permission, Send):
                epoch = self._of(name).row.epoch
                slot = await self.limiter.acquire(name, is_probe=is_probe)
                if is_probe or self._of(name).row.epoch == epoch or self._running.is_over():
                    return slot
                self.limiter.release(slot)  # the gate changed during the wait for the slot
                continue
            # A normal gate waits for answers, and a line that is paced for the next moment.
            longest = _LONGEST_WAIT_SECONDS
            await line.change(
                min(longest, max(permission.seconds, _SHORTEST_WAIT_SECONDS))
                if self.governs(name)
                else longest
            )

    @contextmanager
    def sending(self, lease: Lease) -> Iterator[None]:
        """Count an admitted send from its start until its answer."""
        self._sending[lease.endpoint] += 1
        try:
            yield
        finally:
            self._sending[lease.endpoint] -= 1

    async def watch(self, lease: Lease, attempt: Awaitable[Report]) -> Report:
        """Await an attempt and pass its answer to the gate. Call it inside ``sending``."""
        gate = self._of(lease.endpoint)
        sent = gate.sent(self._store.shared_clock())
        # Only a pace depends on the durations of answers.
        with self._lag.measured() if gate.row.state == "paced" else _NOT_MEASURED as lag:
            report = await attempt
            duration = max(0.0, report.attempt.duration - lag())
        answer = Answer(report.verdict, report.attempt.status_code, duration, lease.delivery_id)
        has_failed = not (answer.works or answer.is_local)
        self.limiter.note_send(lease.endpoint, report.attempt.duration, has_failed=has_failed)
        self._lines[lease.endpoint].has_changed.set()
        others = self._sending[lease.endpoint] - 1
        change = gate.answered(sent, answer, self._store.shared_clock(), others)
        if change is not None:
            self._propose(change)
        return report

    def gate(self, endpoint: str) -> Gate:
        """Return the last known state of the gate."""
        return self._of(endpoint).row

    def stops(self, endpoint: str) -> bool:
        """Return whether no send is allowed: the endpoint is paused, or a Retry-After is in effect."""
        return self._of(endpoint).stops(self._store.shared_clock())

    async def leave(self) -> None:
        """Stop being the pilot of any gate, at the end of the run.

        Raises:
            StoreError: the change cannot be written; other runs take over after a few seconds.
        """
        if self._writer is not None:
            await asyncio.wait([self._writer])
        now = self._store.shared_clock()
        changes = [gate.leave(now) for gate in self._gates.values()]
        await self._write([change for change in changes if change is not None])

    def _of(self, endpoint: str) -> EndpointGate:
        gate = self._gates.get(endpoint)
        if gate is None:
            row = self._rows.get(endpoint, Gate(endpoint))
            gate = self._gates[endpoint] = EndpointGate(row, self._owner, self._rng)
        return gate

    def _see(self, row: Gate) -> None:
        gate = self._of(row.endpoint)
        before = gate.row
        gate.see(row)
        if gate.row != before:
            self._lines[row.endpoint].has_changed.set()

    def _waiting(self, endpoint: str) -> int:
        return self._in_flight.busy(endpoint) - self._sending[endpoint]

    async def _permission(self, lease: Lease) -> Permission:
        name = lease.endpoint
        await self._look_if_overdue()
        while name in self._proposed or name in self._writing:
            await self._written.wait()  # the change may close the gate
        gate, now = self._of(name), self._store.shared_clock()
        if gate.row.state == "probing" and self._probes.get(name) != lease.key:
            return RELEASE
        permission = gate.may_send(now, self._sending[name])
        if isinstance(permission, Wait) and gate.governs(now):
            limit = gate.claim_limit(now, 0)
            if not isinstance(limit, NoLimit) and self._waiting(name) > limit:
                return RELEASE  # too many sends wait: the pace was cut, or retries became due
        return permission

    async def _look_if_overdue(self) -> None:
        """Read the gates before a send if the last read is too old: starting many task runs takes seconds."""
        if time.monotonic() - self._looked_at < _OVERDUE_SECONDS:
            return
        async with self._looking:
            if time.monotonic() - self._looked_at >= _OVERDUE_SECONDS:
                with contextlib.suppress(StoreError):  # the send will raise the error
                    await self.look_at_sends()

    def _propose(self, change: GateChange) -> None:
        """Write a change in the background, so that answers do not wait for the commit."""
        self._proposed[change.after.endpoint] = change
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_proposed())
            self._writer.add_done_callback(self._ended)

    async def _write_proposed(self) -> None:
        while self._proposed:
            names = list(self._proposed)[:_MOST_CHANGES]
            self._writing = {name: self._proposed.pop(name) for name in names}
            try:
                with contextlib.suppress(StoreError):  # the controllers propose them again
                    await self._write(list(self._writing.values()))
            finally:
                self._writing = {}
                self._written.set()
                self._written = asyncio.Event()

    def _ended(self, writer: asyncio.Task[None]) -> None:
        if not writer.cancelled() and (error := writer.exception()) is not None:
            self._running.fail(error)

    async def _write(self, changes: list[GateChange]) -> None:
        """Write changes of different gates; skip those whose gate has changed since the proposal."""
        changes = [
            change for change in changes if change.before.epoch == self._of(change.after.endpoint).row.epoch
        ]
        if not changes:
            return
        for change, is_written, row in await self._store.write(try_changes, changes):
            self._see(row)
            if is_written and change.before.state != row.state:
                self._tell(change.before, row)

    def _tell(self, before: Gate, after: Gate) -> None:
        try:
            self._on_change(before, after)
        except Exception:
            logger.exception("the change of %s to %s was not announced", after.endpoint, after.state)
