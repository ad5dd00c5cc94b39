"""A drain without Prefect, in a process for tests to kill: ``python rate_worker.py STORE RECEIVER RATE``."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import uuid

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.sinks.redaction import Redactor
from resonant.store import WorkerStore

_LIMITS = Limits(run_for=600.0, chunk_size=500)


async def drain(store_url: str, receiver: str, rate: float) -> None:
    """Send due deliveries until the process ends."""

    async def open_destination(name):
        endpoint = Endpoint(name, receiver, allow_private=True)
        sink = HttpSink(endpoint)
        describe = Redactor.of(endpoint).message
        return Destination(name=name, sink=sink, describe=describe, close=sink.aclose, rate=rate)

    async def emit_one(lease):
        await dispatcher.attempt(lease.key)

    async def emit_chunk(leases):
        await dispatcher.attempt_all(leases[0].endpoint, [lease.key for lease in leases])

    store = await WorkerStore.open(store_url)
    runner = AttemptRunner(clock=time.time, rng=random.Random())
    dispatcher = Dispatcher(store, runner, open_destination, owner=str(uuid.uuid4()), limits=_LIMITS)
    async with dispatcher:
        await dispatcher.run(emit_one, emit_chunk=emit_chunk, take_over=True)


if __name__ == "__main__":
    asyncio.run(drain(sys.argv[1], sys.argv[2], float(sys.argv[3])))
