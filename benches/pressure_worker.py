"""A drain without Prefect, whose import takes seconds: ``python -m benches.pressure_worker STORE RECEIVER LANE``."""

import asyncio
import random
import sys
import time
import uuid
from typing import cast

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.retry import Retry, RetryPolicy
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import LANES, Lane, Limits
from resonant.errors import StoreUnavailable
from resonant.events import Lease
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.sinks.redaction import Redactor
from resonant.store import WorkerStore

_SUCCESSORS = 2  # as in the drain deployment
_PAUSE_WITHOUT_STORE_SECONDS = 1.0


async def _drain(store_url: str, receiver: str, lane: Lane, owner: str) -> None:
    async def open_destination(name: str) -> Destination:
        endpoint = Endpoint(name, receiver, allow_private=True)
        sink = HttpSink(endpoint)
        describe = Redactor.of(endpoint).message
        return Destination(
            name=name, sink=sink, describe=describe, close=sink.aclose, connect=sink.connect, timeout=15.0
        )

    async def emit_one(lease: Lease) -> None:
        while isinstance(decision := (await dispatcher.attempt(lease.key)).decision, Retry):
            await asyncio.sleep(decision.delay)

    runner = AttemptRunner(clock=time.time, rng=random.Random(), policy=lambda _name: RetryPolicy())
    limits = Limits(successors=_SUCCESSORS, **LANES[lane])
    store = await WorkerStore.open(store_url)
    try:
        await store.release_all(owner)
        async with Dispatcher(store, runner, open_destination, owner=owner, limits=limits) as dispatcher:
            await dispatcher.run(emit_one, emit_chunk=dispatcher.attempt_all)
    finally:
        await store.close()


async def _main(store_url: str, receiver: str, lane: str) -> None:
    owner = str(uuid.uuid4())
    while True:
        try:
            await _drain(store_url, receiver, cast("Lane", lane), owner)
        except StoreUnavailable as error:
            print(f"waiting for the store: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(_PAUSE_WITHOUT_STORE_SECONDS)


asyncio.run(_main(*sys.argv[1:]))
