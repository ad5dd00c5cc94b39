"""A run of the dispatcher on its own store."""

import asyncio
import contextlib
import itertools
import json
import random
import sqlite3
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

from sqlalchemy import func, select

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.outcome import Outcome
from resonant.delivery.retry import Retry, RetryPolicy
from resonant.dispatch.counts import Counts
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import WAIT_SECONDS, Limits
from resonant.errors import EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks.base import CallableSink
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.sinks.redaction import Redactor
from resonant.store import WorkerStore, schema
from resonant.store.queue.leases import lease_owners
from resonant.store.shared.gates import GateChange, change_gate, read_gate
from resonant.testing import FixedClock
from support.waiting import until

START = 1_800_000_000.0
QUICK = RetryPolicy(max_attempts=3, base=1.0, factor=1.0, jitter="none")


@dataclass
class Scene:
    """A worker's emission, and the values that tests inspect; ``ids`` are those of the events stored at its start."""

    dispatcher: Dispatcher
    store: WorkerStore
    clock: FixedClock
    ids: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    done: list[Counts] = field(default_factory=list)
    shown: list[list[Outcome]] = field(default_factory=list)
    was_cancelled: bool = False
    chunk_size: ClassVar[int] = 0

    @property
    def counts(self) -> Counts:
        return self.dispatcher.counts

    async def emit_one(self, lease):
        """Make the attempts of a delivery; the clock advances instead of waiting."""
        while True:
            outcome = await self.dispatcher.attempt(lease.key)
            self.outcomes.append(outcome)
            if not isinstance(outcome.decision, Retry):
                return
            await self.wait(outcome.decision.delay)

    async def wait(self, seconds):
        """Advance a fixed clock, and wait for any other."""
        if isinstance(self.clock, FixedClock):
            self.clock.advance(seconds)
        else:
            await asyncio.sleep(seconds)

    async def emit_chunk(self, chunk):
        """Make an attempt for each lease; the clock advances instead of waiting for briefly parked deliveries."""
        self.chunks.append(len(chunk.flights))
        await self.dispatcher.attempt_all(chunk)
        self.done.append(chunk.counts)
        self.shown.append(chunk.shown)
        if chunk.counts.parked:
            await self.wait_for_parked()

    async def wait_for_parked(self, longest=WAIT_SECONDS):
        """Advance a fixed clock until every delivery that becomes due within this many seconds is due."""
        if not isinstance(self.clock, FixedClock):
            return
        now, table = self.clock(), schema.deliveries.c
        query = select(func.max(table.available_at)).where(
            table.lease_owner.is_(None), table.available_at <= now + longest
        )
        due_at = await self.store.read(lambda connection: connection.execute(query).scalar())
        self.clock.advance(max(0.0, (due_at or now) - now))

    async def run(self, emit_one=None, *, patience=60, **options) -> Counts:
        """Run to the end; without an ``emit_one``, in the lane of the test."""
        if emit_one is None:
            options |= {"emit_chunk": self.emit_chunk}
        return await asyncio.wait_for(self.dispatcher.run(emit_one or self.emit_one, **options), patience)

    @asynccontextmanager
    async def running(self, emit_one=None, **options):
        """Run for the block, and cancel the run if it has not ended; yields the task."""
        run = asyncio.create_task(self.run(emit_one, **options))
        try:
            yield run
        finally:
            self.was_cancelled = run.cancel()
            await asyncio.wait([run])

    async def run_until_lost(self, number, emit_one=None) -> Counts:
        """Run until this many leases are lost; their new owners still hold them then."""
        async with self.running(emit_one):
            await until(lambda: self.counts.lost == number)
        return self.counts

    async def lose_leases(self, path, *, to=None):
        """Let another worker rescue all leases of this one, and claim a delivery for the owner ``to``."""
        async with another_worker(path, clock=self.clock) as other:
            await other.rescue_from(["worker"])
            if to is not None:
                await other.claim("orders", owner=to, limit=1)

    def count_claims(self):
        """Return a list that gets, with each claim, the number of busy deliveries of all endpoints after it."""
        held, claim = [], self.store.claim_each

        async def claim_and_count(*args, **options):
            found = await claim(*args, **options)
            held.append(self.dispatcher._flights.counts.busy + sum(map(len, found.values())))
            return found

        self.store.claim_each = claim_and_count
        return held

    def governs(self, endpoint="orders"):
        """Return whether the gate of an endpoint holds or paces it, as far as the run knows."""
        opened = self.dispatcher._endpoints.opened.get(endpoint)
        return opened is not None and opened.governs()

    async def gate(self):
        """Read the gate of `orders`."""
        return await self.store.read(read_gate, "orders")

    async def set_gate(self, **fields):
        """Write the gate of `orders`, as another process would."""
        before = await self.gate()
        assert await self.store.write(change_gate, GateChange(before, replace(before, **fields)))


def sink_target(name, sink, **fields):
    async def close():
        return None

    def describe(error):
        return f"{type(error).__name__}: {error}"

    return Destination(
        name=name, sink=sink, **{"describe": describe, "close": close, "timeout": 15.0} | fields
    )


def http_target(name, url, *, timeout=15.0, **fields):
    """Return the destination of an HTTP endpoint that may be at a private address."""
    endpoint = Endpoint(name, url, timeout=timeout, allow_private=True)
    sink = HttpSink(endpoint)
    describe = Redactor.of(endpoint).message
    options = {"describe": describe, "close": sink.aclose, "connect": sink.connect, "timeout": timeout}
    return sink_target(name, sink, **options | fields)


@asynccontextmanager
async def opened(url, **options):
    """Open a store for the block, as a process does."""
    store = await WorkerStore.open(url, **options)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def dispatching(store, sink, *, policy=None, seed=7, **options):
    """Open a dispatcher on a store; ``sink`` is an async function of the event, or returns an endpoint's destination."""

    async def open_destination(name):
        return sink_target(name, CallableSink(sink))

    runner = AttemptRunner(
        clock=store.clock, rng=random.Random(seed), policy=lambda _name: policy or RetryPolicy()
    )
    options = {"owner": "worker", "open_destination": open_destination} | options
    async with Dispatcher(store, runner, options.pop("open_destination"), **options) as dispatcher:
        yield dispatcher


def dispatching_to(url, store, *, timeout, **options):
    """Open a dispatcher on a store, with the HTTP endpoint at this URL for every name."""

    async def open_destination(name):
        return http_target(name, url, timeout=timeout)

    return dispatching(store, None, open_destination=open_destination, seed=None, **options)


@asynccontextmanager
async def draining(store, sink, *, waits=0.0, endpoint=None, **options):
    """Run a dispatcher for the block, and cancel the run if it has not ended; yields the task.

    A delivery to be retried waits in its task for this many seconds, and is then released.
    """
    async with dispatching(store, sink, **options) as dispatcher:

        async def emit_one(lease):
            if isinstance((await dispatcher.attempt(lease.key)).decision, Retry):
                await asyncio.sleep(waits)

        run = asyncio.create_task(
            dispatcher.run(emit_one, emit_chunk=dispatcher.attempt_all, endpoint=endpoint)
        )
        try:
            yield run
        finally:
            run.cancel()
            await asyncio.wait([run])


async def emit(dispatcher, **options) -> Counts:
    """Run to the end as the flow does, without Prefect."""

    async def emit_one(lease):
        while isinstance(decision := (await dispatcher.attempt(lease.key)).decision, Retry):
            await asyncio.sleep(decision.delay)

    return await dispatcher.run(emit_one, emit_chunk=dispatcher.attempt_all, **options)


@asynccontextmanager
async def scene(
    path,
    *,
    policy=QUICK,
    clock=None,
    lease_seconds=60.0,
    limits=None,
    sinks=None,
    before_open=None,
    on_gate_change=lambda *_: None,
    due=None,
    gate=None,
    checks_books=True,
    **more_sinks,
):
    """Open an emission with an endpoint for each sink: an async function of the event, or a whole target.

    At the end, the books must be in order: the balance, the leases, and one attempt in the history for each one counted.

    Args:
        before_open: awaited with an endpoint's name before it is opened.
        due: the number of events to store first, for `orders` or by endpoint.
        gate: what to change in the gate of `orders` before.
        checks_books: false if leases are left at the end, since the store is away, or if a test watches every query.
    """
    clock = clock or FixedClock(START)
    sinks = more_sinks if sinks is None else sinks

    async def open_destination(name):
        if before_open is not None:
            await before_open(name)
        if name not in sinks:
            raise EndpointError(f"no endpoint is named {name!r}")
        sink = sinks[name]
        return sink if isinstance(sink, Destination) else sink_target(name, CallableSink(sink))

    async with another_worker(path, clock=clock, lease_seconds=lease_seconds) as store:
        before = await store.read(_attempts_of_the_worker) if checks_books else 0
        async with dispatching(
            store,
            None,
            policy=policy,
            open_destination=open_destination,
            limits=replace(limits or Limits(), chunk_size=Scene.chunk_size),
            on_gate_change=on_gate_change,
        ) as dispatcher:
            worker = Scene(dispatcher, store, clock)
            for name, count in (due if isinstance(due, dict) else {"orders": due or 0}).items():
                worker.ids += await enqueue(store, count, name) if count else []
            if gate is not None:
                await worker.set_gate(**gate)
            yield worker
        if checks_books:
            assert (await store.status()).balanced
            assert "worker" not in await store.read(lease_owners)
            recorded = await store.read(_attempts_of_the_worker) - before
            if (
                worker.was_cancelled
            ):  # the cancellation may come after an attempt is recorded, and before it is counted
                assert recorded >= worker.counts.attempts
            else:
                assert recorded == worker.counts.attempts


def _attempts_of_the_worker(connection):
    """Return the number of its attempts that ended while it held the lease."""
    own = (schema.attempts.c.owner == "worker", schema.attempts.c.result != "lost", ~schema.attempts.c.late)
    return connection.scalar(select(func.count()).select_from(schema.attempts).where(*own))


@asynccontextmanager
async def at_work(path, emit_one=None, **options):
    """Run a scene for the block; yields it and the task of its run."""
    async with scene(path, **options) as worker, worker.running(emit_one) as run:
        yield worker, run


async def ran(path, emit_one=None, **options):
    """Run a scene to its end, and return it."""
    async with scene(path, **options) as worker:
        await worker.run(emit_one)
    return worker


def another_worker(path, *, clock, lease_seconds=60.0):
    """Open the store as another process would."""
    url = f"sqlite:///{path / 'r.db'}"
    return opened(url, clock=clock, lease_seconds=lease_seconds)


numbers = itertools.count()


async def enqueue(store, count=1, endpoint="orders", **options):
    events = [
        Event(type="order.paid", source="/shop", data=n, id=f"evt_{next(numbers):06}") for n in range(count)
    ]
    await store.enqueue(events, endpoint, **options)
    return [event.id for event in events]


def rows(path, query):
    """Read committed rows, as another process would."""
    with contextlib.closing(sqlite3.connect(path / "r.db")) as connection:
        return connection.execute(query).fetchall()


def deliveries(path, columns):
    return rows(path, f"SELECT {columns} FROM resonant_deliveries ORDER BY id")


async def succeed(_event):
    return None


async def fail(_event):
    raise UnexpectedStatus(503)


async def hang(_event):
    await asyncio.Event().wait()


def answering(status, retry_after=None, *, sent=None):
    """Return a sink that always fails with this status, and adds the ids of events to ``sent``."""

    async def send(event):
        if sent is not None:
            sent.append(event.id)
        raise UnexpectedStatus(status, retry_after)

    return send


def appending_to(sent, go=None):
    """Return a sink that adds the ids of events to a list, and then waits for an event of asyncio, if one is given."""

    async def send(event):
        sent.append(event.id)
        if go is not None:
            await go.wait()

    return send


def failing_first(times=1, *, one_in=1):
    """Return a sink that fails the first attempts of each event, or of one event in ``one_in``.

    Eight failures in a row close the gate of an endpoint.
    """
    tries = Counter()

    async def send(event):
        tries[event.id] += 1
        if tries[event.id] <= times and json.loads(event.body) % one_in == 0:
            raise UnexpectedStatus(503)

    return send
