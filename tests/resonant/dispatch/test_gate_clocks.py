"""Processes whose clocks differ share the gate of an endpoint."""

import asyncio
import random
import time
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise

import pytest

from resonant.delivery.attempt import AttemptRunner
from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.errors import UnexpectedStatus
from resonant.sinks.base import CallableSink
from resonant.store import WorkerStore
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate, read_gates_and_clock
from support.dispatching import enqueue, sink_target
from support.waiting import until

HOUR = 3600.0
EVENTS = 60


def clock_ahead(seconds):
    return lambda: time.time() + seconds


@asynccontextmanager
async def running(url, name, send, *, ahead):
    """Run a dispatcher on its own store, with a clock that is ahead by this time."""
    clock = clock_ahead(ahead)
    store = await WorkerStore.open(url, clock=clock)
    try:
        policy = RetryPolicy(base=0.2, factor=1.0)
        attempt_runner = AttemptRunner(clock=clock, rng=random.Random(name), policy=lambda _name: policy)

        async def open_destination(endpoint):
            return sink_target(endpoint, CallableSink(send))

        limits = Limits(run_for=60)
        async with Dispatcher(store, attempt_runner, open_destination, owner=name, limits=limits) as worker:

            async def emit_one(lease):
                await worker.attempt(lease.key)

            run = asyncio.create_task(worker.run(emit_one))
            try:
                yield
            finally:
                run.cancel()
                await asyncio.wait([run])
    finally:
        await store.close()


async def note_pilots(store, pilots):
    while True:
        pilots.append((await store.read(read_gate, "orders")).pilot)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_a_recovered_endpoint_gets_everything_from_processes_whose_clocks_are_an_hour_apart(
    store_url, ahead
):
    async def send(event):
        sent.append(event.id)

    sent, pilots = [], []
    observer = await WorkerStore.open(store_url, clock=clock_ahead(min(0.0, ahead)))
    try:
        await enqueue(observer, EVENTS)
        now = (await observer.read(read_gates_and_clock)).at
        down = Gate("orders", "probing", since=now, failing_since=now, probe_at=now, pace=20.0)
        await observer.write(change_gate, GateChange(Gate("orders"), down))
        noting = asyncio.create_task(note_pilots(observer, pilots))
        async with running(store_url, "right", send, ahead=0), running(store_url, "wrong", send, ahead=ahead):
            await until(lambda: len(sent) == EVENTS, 10)
        noting.cancel()
        await asyncio.wait([noting])
    finally:
        await observer.close()
    assert len(set(sent)) == EVENTS
    taken = [pilot for before, pilot in pairwise(pilots) if pilot not in (None, before)]
    assert len(taken) == 1, "one process sends until the end"


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_an_outage_is_noticed_and_timed_alike_by_a_process_whose_clock_is_wrong(store_url, ahead):
    async def fail(_event):
        raise UnexpectedStatus(503)

    observer = await WorkerStore.open(store_url, clock=clock_ahead(ahead))
    try:
        await enqueue(observer, EVENTS)
        read = partial(observer.read, read_gate, "orders")
        async with running(store_url, "wrong", fail, ahead=ahead):
            async with asyncio.timeout(10):
                while (gate := await read()).state != "probing":
                    await asyncio.sleep(0.02)
            now = (await observer.read(read_gates_and_clock)).at
    finally:
        await observer.close()
    assert now - 10 < gate.failing_since <= now
    assert gate.probe_at < now + 2
