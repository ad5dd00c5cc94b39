"""One operation on a store, in a process that a test will kill.

``python chaos_worker.py ORDERS``, with orders as JSON. It does the same as the flow or command of that name, with the same
functions, but without Prefect, whose import takes seconds.
"""

import asyncio
import json
import os
import random
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from resonant.dead_letters.purge import Retention, purge
from resonant.dead_letters.replay import ReplayRequest, take_dead_letters
from resonant.dead_letters.triage import triage
from resonant.delivery.retry import Retry, RetryPolicy
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.flights.chunk import Chunk
from resonant.dispatch.limits import Limits
from resonant.dispatch.run.event_loop import use_uvloop
from resonant.events import Clock, Lease
from resonant.input_lines import parse_event
from resonant.store import Store
from resonant.store.audit import audited
from resonant.store.shared.processes import has_ended
from resonant.store.views.selection import Selection
from support.dispatching import dispatching_to, opened

ENDPOINT = "hooks"
TIMEOUT_SECONDS = 1.0
WIDTH = 16
POLICY = RetryPolicy(max_attempts=4, base=0.05, factor=3.0, cap=0.3, park_after=0.2)
_EVENTS_AT_ONCE = 25
_LONGEST_PAUSE_SECONDS = 0.03


@dataclass(frozen=True, slots=True)
class Orders:
    """The orders of a process.

    Attributes:
        kind: emit, replay, purge, collect, export or enqueue.
        name: the owner of the leases, and the name in the audit.
        progress: the file for the work that was begun and acknowledged.
        is_auto: whether an emission uses the lane auto, not the task lane.
        archive, delivered_too: for a purge.
        textfile: for an export.
        events: the file that is enqueued.
        pauses: the seed of random delays of the store and the disk, so that kills happen between two of their answers;
            None for no delays.
        times: how often a collection or an export is repeated.
    """

    kind: str
    name: str
    url: str
    receiver: str
    progress: str
    lease_seconds: float
    is_auto: bool = False
    archive: str | None = None
    delivered_too: bool = False
    textfile: str | None = None
    events: str | None = None
    pauses: int | None = None
    times: int = 12

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Progress:
    """Writes lines that outlive the process, without buffering."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, **fields: object) -> None:
        os.write(self._descriptor, json.dumps(fields).encode() + b"\n")


@asynccontextmanager
async def opened_store(orders: Orders, clock: Clock | None = None) -> AsyncIterator[Store]:
    async with opened(orders.url, clock=clock, lease_seconds=orders.lease_seconds) as store:
        if orders.pauses is not None:
            _slow_down(store, random.Random(orders.pauses))
        yield store


def _slow_down(store: Store, rng: random.Random) -> None:
    write, sync = store.write, os.fsync

    async def slow_write(*args, **kwargs):
        await asyncio.sleep(rng.uniform(0, _LONGEST_PAUSE_SECONDS))
        written = await write(*args, **kwargs)
        await asyncio.sleep(rng.uniform(0, _LONGEST_PAUSE_SECONDS))
        return written

    def slow_sync(descriptor):
        time.sleep(rng.uniform(0, _LONGEST_PAUSE_SECONDS))
        sync(descriptor)
        time.sleep(rng.uniform(0, _LONGEST_PAUSE_SECONDS))

    store.write, os.fsync = slow_write, slow_sync


def opened_emission(store: Store, orders: Orders) -> AbstractAsyncContextManager[Dispatcher]:
    chunks = {"chunk_size": 100, "alone": 20} if orders.is_auto else {}
    limits = Limits(concurrency=2 * WIDTH, endpoint_concurrency=WIDTH, **chunks)
    options = {"owner": orders.name, "policy": POLICY, "limits": limits}
    return dispatching_to(orders.receiver, store, timeout=TIMEOUT_SECONDS, **options)


def _emit_one(dispatcher: Dispatcher, progress: Progress) -> Callable[[Lease], Awaitable[None]]:
    async def emit_one(lease: Lease) -> None:
        while True:
            report = await dispatcher.attempt(lease.key)
            progress.say(recorded=[[lease.event.id, report.attempt.number]])
            if not isinstance(report.decision, Retry):
                return
            await asyncio.sleep(report.decision.delay)

    return emit_one


def _emit_chunk(dispatcher: Dispatcher, progress: Progress) -> Callable[[Chunk], Awaitable[None]]:
    async def emit_chunk(chunk: Chunk) -> None:
        leases = [flight.lease for flight in chunk.flights]
        counts = (await dispatcher.attempt_all(chunk)).counts
        # Some of a chunk have no attempt if the gate held them, or a lease was lost.
        if counts.settled == len(leases) and not counts.held:
            progress.say(recorded=[[lease.event.id, lease.attempts + 1] for lease in leases])

    return emit_chunk


async def emit(store: Store, orders: Orders, progress: Progress) -> None:
    async with opened_emission(store, orders) as dispatcher:
        await dispatcher.run(_emit_one(dispatcher, progress), emit_chunk=_emit_chunk(dispatcher, progress))


async def replay(store: Store, orders: Orders, progress: Progress) -> None:
    request = ReplayRequest(Selection(), everything=True, include_permanent=True)
    async with (
        opened_emission(store, orders) as dispatcher,
        audited(store, who=orders.name, action="replay", selection=request.as_dict()) as audit_id,
    ):
        taken = take_dead_letters(store, request, owner=orders.name, audit_id=audit_id)
        await dispatcher.emit_given(_emit_one(dispatcher, progress), taken)


async def purge_all(store: Store, orders: Orders, _progress: Progress) -> None:
    retention = Retention(dead_letters=0, delivered=0 if orders.delivered_too else None)
    archive = None if orders.archive is None else Path(orders.archive)
    await purge(store, retention, who=orders.name, now=store.clock(), archive=archive)


async def collect(store: Store, orders: Orders, _progress: Progress) -> None:
    for _ in range(orders.times):
        await store.rescue_ended(has_ended)
        await store.read(triage)
        await asyncio.sleep(0.05)


async def export_to(path: Path, store: Store, *, hours: float) -> None:
    from resonant.files import atomic_file
    from resonant.metrics.prometheus import registry_of, to_text
    from resonant.metrics.totals import measure

    totals, found = await measure(store, hours=hours)
    with atomic_file(path, mode=0o644) as write:
        write(to_text(registry_of(totals, found)))
    await store.compact()


async def export(store: Store, orders: Orders, _progress: Progress) -> None:
    for _ in range(orders.times):
        await export_to(Path(orders.textfile), store, hours=24)


async def enqueue(store: Store, orders: Orders, progress: Progress) -> None:
    lines = Path(orders.events).read_bytes().splitlines()
    for start in range(0, len(lines), _EVENTS_AT_ONCE):
        events = [parse_event(line) for line in lines[start : start + _EVENTS_AT_ONCE]]
        await store.enqueue(events, ENDPOINT)
        progress.say(accepted=[event.id for event in events])


OPERATIONS = {
    "emit": emit,
    "replay": replay,
    "purge": purge_all,
    "collect": collect,
    "export": export,
    "enqueue": enqueue,
}


async def work(orders: Orders, clock: Clock | None = None) -> None:
    """Do the operation once, with its own store."""
    progress = Progress(orders.progress)
    async with opened_store(orders, clock) as store:
        progress.say(begun=orders.kind)
        await OPERATIONS[orders.kind](store, orders, progress)


if __name__ == "__main__":
    use_uvloop()  # as in a flow run
    asyncio.run(work(Orders(**json.loads(sys.argv[1]))))
