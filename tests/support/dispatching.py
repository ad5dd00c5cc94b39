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

from resonant.delivery.attempt import AttemptRunner, Destination, Report
from resonant.delivery.retry import Retry, RetryPolicy
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.dispatch.sender import WAIT_SECONDS
from resonant.dispatch.summary import ChunkSummary, Summary
from resonant.errors import EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks.base import CallableSink
from resonant.store import Store, WorkerStore, schema
from resonant.testing import FixedClock

START = 1_800_000_000.0
QUICK = RetryPolicy(max_attempts=3, base=1.0, factor=1.0, jitter="none")


@dataclass
class Scene:
    """A worker's emission, and the values that tests inspect."""

    dispatcher: Dispatcher
    store: Store
    clock: FixedClock
    reports: list[Report] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    done: list[ChunkSummary] = field(default_factory=list)
    chunk_size: ClassVar[int] = 0

    async def emit_one(self, lease):
        """Make the attempts of a delivery; the clock advances instead of waiting."""
        while True:
            report = await self.dispatcher.attempt(lease.key)
            self.reports.append(report)
            if not isinstance(report.decision, Retry):
                return
            await self.wait(report.decision.delay)

    async def wait(self, seconds):
        self.clock.advance(seconds)

    async def emit_chunk(self, leases):
        """Make an attempt for each lease; the clock advances instead of waiting for briefly parked deliveries."""
        self.chunks.append(len(leases))
        done = await self.dispatcher.attempt_all(leases[0].endpoint, [lease.key for lease in leases])
        self.done.append(done)
        if done.parked:
            await self.wait_for_parked()

    async def wait_for_parked(self, longest=WAIT_SECONDS):
        """Advance the clock until every delivery that becomes due within this many seconds is due."""
        now, table = self.clock(), schema.deliveries.c
        query = select(func.max(table.available_at)).where(
            table.lease_owner.is_(None), table.available_at <= now + longest
        )
        due_at = await self.store.read(lambda connection: connection.execute(query).scalar())
        self.clock.advance(max(0.0, (due_at or now) - now))

    async def run(self, **options) -> Summary:
        running = self.dispatcher.run(self.emit_one, emit_chunk=self.emit_chunk, **options)
        return await asyncio.wait_for(running, 30)


def sink_target(name, sink, **fields):
    async def close():
        return None

    def describe(error):
        return f"{type(error).__name__}: {error}"

    return Destination(
        name=name, sink=sink, **{"describe": describe, "close": close, "timeout": 15.0} | fields
    )


@asynccontextmanager
async def scene(
    path,
    *,
    policy=QUICK,
    clock=None,
    lease_seconds=60.0,
    limits=None,
    on_gate_change=lambda *_: None,
    sinks=None,
    before_open=None,
    **more_sinks,
):
    """Open an emission with an endpoint for each sink: an async function of the event, or a whole target.

    ``before_open`` is awaited with an endpoint's name before it is opened.
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

    store = await WorkerStore.open(
        f"sqlite:///{path / 'r.db'}", clock=clock, host_clock=clock, lease_seconds=lease_seconds
    )
    try:
        attempt_runner = AttemptRunner(clock=clock, rng=random.Random(7), policy=lambda _name: policy)
        limits = replace(limits or Limits(), chunk_size=Scene.chunk_size)
        async with Dispatcher(
            store,
            attempt_runner,
            open_destination,
            owner="worker",
            limits=limits,
            on_gate_change=on_gate_change,
        ) as dispatcher:
            yield Scene(dispatcher, store, clock)
    finally:
        await store.close()


@asynccontextmanager
async def another_worker(path, *, clock, lease_seconds=60.0):
    """Open the store as another process would."""
    store = await WorkerStore.open(
        f"sqlite:///{path / 'r.db'}", clock=clock, host_clock=clock, lease_seconds=lease_seconds
    )
    try:
        yield store
    finally:
        await store.close()


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
