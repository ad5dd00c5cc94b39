"""Delivery without Prefect: a ``Dispatcher`` on an SQLite store against a bare httpx loop on the same transport.

The difference is the cost of at-least-once delivery: each attempt is written before and after its send.
"""

import asyncio
import random

import httpx
from httpx_aiohttp import AiohttpTransport

from benches.comparing import Comparison, Stopwatch, in_turn
from benches.receiver import receiver
from benches.surroundings import ENDPOINT, empty_home, events
from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.dispatch.dispatcher import Dispatcher
from resonant.events import Lease
from resonant.settings import Settings
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.store import WorkerStore

EVENTS = 5_000
_HEADERS = {"content-type": "application/json"}


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    with empty_home() as settings, receiver() as url:
        return asyncio.run(_compare(settings, url, count, rounds))


async def _compare(settings: Settings, url: str, count: int, rounds: int) -> list[Comparison]:
    async def emit() -> float:
        store = await WorkerStore.open(settings.store_url)
        try:
            await store.enqueue(events(count), ENDPOINT)
            dispatcher = Dispatcher(
                store, AttemptRunner(clock=store.clock, rng=random.Random(7)), open_destination, owner="bench"
            )

            async def emit_one(lease: Lease) -> None:
                await dispatcher.attempt(lease.key)

            with Stopwatch() as watch:
                async with dispatcher:
                    summary = await dispatcher.run(emit_one, endpoint=ENDPOINT)
        finally:
            await store.close()
        if summary.delivered != count:
            raise RuntimeError(f"{count} events: {summary}")
        return count / watch.seconds

    async def open_destination(name: str) -> Destination:
        sink = HttpSink(Endpoint(name=name, url=url, allow_private=True))
        return Destination(name=name, sink=sink, describe=repr, close=sink.aclose)

    async def post() -> float:
        return await post_all(url, count, settings.endpoint_concurrency)

    against = f"httpx-aiohttp, {settings.endpoint_concurrency} in flight"
    return [Comparison("Dispatcher without Prefect", "events/s", *await in_turn(emit, post, rounds), against)]


async def post_all(url: str, count: int, in_flight: int) -> float:
    """Post events in a bare httpx loop; return how many per second."""
    left = iter(events(count))

    async def one_after_the_other(client: httpx.AsyncClient) -> None:
        for event in left:
            answer = await client.post(url, content=event.body, headers=_HEADERS)
            answer.raise_for_status()

    with Stopwatch() as watch:
        async with httpx.AsyncClient(transport=AiohttpTransport(), trust_env=False) as client:
            await asyncio.gather(*(one_after_the_other(client) for _ in range(in_flight)))
    return count / watch.seconds
