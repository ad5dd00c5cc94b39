"""Keeps the gates of a run in step with their rows in the store.

The controller of a gate (``EndpointGate``) only proposes changes. They are written with compare-and-set. If another process was
faster, its row is passed to the controller instead.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from itertools import islice
from math import inf

from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.dispatch.run.running_tasks import RunningTasks
from resonant.errors import StoreError
from resonant.events import Lease
from resonant.store import WorkerStore
from resonant.store.queue.gate_changes import try_changes
from resonant.store.queue.probes import claim_probe
from resonant.store.shared.gates import Gate, GateChange, Gates

OnGateChange = Callable[[Gate, Gate], None]

logger = logging.getLogger(__name__)

# The maximum age of the rows when a send begins, in seconds: starting many task runs takes longer.
_OLD_SECONDS = 0.5
# The most changes in one transaction, so that outcomes do not wait long for it.
_MOST_CHANGES = 16
# The most connections without a request at the same time, and how long each may take, in seconds.
_MOST_CONNECTING, _CONNECT_TIMEOUT_SECONDS = 32, 5.0


class GateRows:
    """Reads and writes the rows of the gates of one run. Methods raise StoreUnavailable if the store is unreachable.

    Args:
        store: has one row per gate.
        owner: the id of this run, recorded when it is a gate's pilot.
        endpoints: the open endpoints of the run.
        on_change: called with the old and the new row after this run has changed a gate's state.
        running: receives errors, which end the run.

    Attributes:
        may_be_pilot: whether this run may be the pilot. A run that sends only some deliveries must not, or the rest would wait
            until it ends.
        rows: the last known rows, by endpoint.
    """

    def __init__(
        self,
        store: WorkerStore,
        owner: str,
        endpoints: Mapping[str, EndpointRun],
        *,
        on_change: OnGateChange,
        running: RunningTasks,
    ) -> None:
        self.may_be_pilot = True
        self._store = store
        self._owner = owner
        self._endpoints = endpoints
        self._on_change = on_change
        self._running = running
        self.rows = Gates()
        self._read_at = -inf
        self._reading = asyncio.Lock()
        self._proposed: dict[str, GateChange] = {}
        self._written = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._connecting: set[asyncio.Task[None]] = set()

    async def update(self, rows: Gates, due: Collection[EndpointRun]) -> None:
        """Pass all rows to the controllers, and renew this run's leases as a pilot; ``due`` have due deliveries."""
        self.rows = rows
        self._read_at = asyncio.get_running_loop().time()
        due = set(due)
        changes = []
        for endpoint in self._endpoints.values():
            gate = endpoint.gate
            endpoint.see(rows[endpoint.name], at=rows.at)
            if endpoint.flights.busy or endpoint in due or gate.row.pilot == self._owner:
                changes.append(gate.look(self._store.clock(), may_be_pilot=self.may_be_pilot))
        await self._write(changes)

    async def read_if_old(self) -> None:
        """Read all rows, and ``update``, if the last read is too old for a send."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._read_at >= _OLD_SECONDS:
            async with self._reading:
                if loop.time() - self._read_at >= _OLD_SECONDS:
                    await self.update(await self._store.gates(), ())

    async def probe(self, endpoint: EndpointRun) -> Lease | None:
        """Claim a delivery to send as a probe, if a probe is due."""
        if endpoint.gate.may_probe and endpoint.flights.probe is not None:
            return None  # the last probe is not sent yet
        probe = endpoint.gate.probe(self._store.clock())
        if probe is None:
            return None
        if (claimed := await self._store.claim_leases(claim_probe, probe, owner=self._owner)) is None:
            return None
        lease, row = claimed
        endpoint.see(row)
        endpoint.gate.may_probe = True
        return lease

    def connect(self, endpoints: Iterable[EndpointRun]) -> None:
        """Connect in the background to those of these endpoints that may accept connections again, without a request."""
        for endpoint in endpoints:
            connect = endpoint.destination.connect
            if len(self._connecting) == _MOST_CONNECTING:
                return
            if connect is not None and endpoint.gate.may_connect(endpoint.clock()):
                task = asyncio.create_task(self._connect(endpoint, connect))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)

    async def _connect(self, endpoint: EndpointRun, connect: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_SECONDS):
                await connect()
        except Exception:  # noqa: BLE001 - a probe will show the error
            is_accepted = False
        else:
            is_accepted = True
        endpoint.gate.connected(endpoint.clock(), is_accepted=is_accepted)

    def propose(self, change: GateChange) -> None:
        """Write a change in the background, so that answers do not wait for the commit."""
        self._proposed[change.after.endpoint] = change
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_proposed())
            self._writer.add_done_callback(self._running.fail_with)

    async def wait_for_changes_of(self, endpoint: EndpointRun) -> None:
        """Wait until the proposed changes of a gate are written: they may close it."""
        while endpoint.name in self._proposed:
            await self._written.wait()

    async def leave(self) -> None:
        """Stop being the pilot of any gate, at the end of the run; if it fails, others take over after a few seconds."""
        self.may_be_pilot = False
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        if self._writer is not None:
            await asyncio.wait([self._writer])
        await self.update(self.rows, ())

    async def _write_proposed(self) -> None:
        while self._proposed:
            first = dict(islice(self._proposed.items(), _MOST_CHANGES))
            try:
                with contextlib.suppress(StoreError):  # the controllers propose them again
                    await self._write(first.values())
            finally:
                for name, change in first.items():
                    if self._proposed[name] is change:
                        del self._proposed[name]
                self._written.set()
                self._written = asyncio.Event()

    async def _write(self, changes: Iterable[GateChange | None]) -> None:
        """Write changes of different gates."""
        if not (proposed := [change for change in changes if change]):
            return
        for change, row in await self._store.write(try_changes, proposed, now=self._store.clock()):
            self._endpoints[row.endpoint].see(row)
            if row == change.result and row.state != change.before.state:
                try:
                    self._on_change(change.before, row)
                except Exception:
                    logger.exception("the change of %s to %s was not announced", row.endpoint, row.state)
