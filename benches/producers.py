"""The cost of notifications: sixteen producers store one event per transaction in PostgreSQL while a drain delivers.

A commit with a notification takes a lock that only one commit of the server can hold. Three sides store the same events: as
shipped, without notifications, and with a notification in every transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Literal
from unittest import mock

from benches.comparing import Comparison, Stopwatch, all_in_turn
from benches.receiver import receiver
from benches.surroundings import ENDPOINT, empty_home, events, postgresql
from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.store import open_store, wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Event as Signal

    from sqlalchemy import Connection

    from benches.comparing import Round
    from resonant.events import Lease

EVENTS, ROUNDS = 4_000, 5
_PRODUCERS, _PROCESSES = 16, 2
_AT_LEAST = 0.95
_DRAIN_SECONDS = 3600.0
_START_SECONDS = 30.0

Notify = Literal["as shipped", "never", "always"]


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    with empty_home(), postgresql() as server, receiver() as url, _drain(server.url, url):
        shipped, never, always = asyncio.run(_compare(server.url, count, rounds))
    return [
        Comparison("as shipped", "events/s", shipped, never, "no notification", ratio_at_least=_AT_LEAST),
        Comparison("a notification in every transaction", "events/s", always, never, "no notification"),
    ]


async def _compare(url: str, count: int, rounds: int) -> list[list[float]]:
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as pool:
        loop = asyncio.get_running_loop()

        def side(notify: Notify) -> Round:
            async def produce() -> float:
                with Stopwatch() as watch:
                    await asyncio.gather(
                        *(
                            loop.run_in_executor(pool, _produce, url, count // _PROCESSES, notify)
                            for _ in range(_PROCESSES)
                        )
                    )
                await _delivered(url)
                return count / watch.seconds

            return produce

        return await all_in_turn([side("as shipped"), side("never"), side("always")], rounds)


def _produce(url: str, count: int, notify: Notify) -> None:
    """Store events with several concurrent producers in this process."""
    announcing: dict[Notify, Callable[..., None]] = {
        "as shipped": _SHIPPED,
        "never": _never,
        "always": _always,
    }
    with mock.patch.object(wakeup, "announce_new", announcing[notify]):
        asyncio.run(_store_side_by_side(url, count))


_SHIPPED = wakeup.announce_new


def _never(_connection: Connection, _endpoint: str, **_: float) -> None:
    pass


def _always(connection: Connection, _endpoint: str, **_: float) -> None:
    wakeup.announce(connection)


async def _store_side_by_side(url: str, count: int) -> None:
    left = iter(events(count))

    async def one_after_the_other() -> None:
        store = await open_store(url)
        try:
            for event in left:
                await store.enqueue([event], ENDPOINT)
        finally:
            await store.close()

    await asyncio.gather(*(one_after_the_other() for _ in range(_PRODUCERS // _PROCESSES)))


async def _delivered(url: str) -> None:
    """Wait until the drain has delivered everything, so that each side begins with an idle drain."""
    store = await open_store(url)
    try:
        while await store.unfinished():
            await asyncio.sleep(0.1)
    finally:
        await store.close()


@contextlib.contextmanager
def _drain(url: str, receiver_url: str) -> Iterator[None]:
    """Deliver in a process of its own during the block."""
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    process = spawn.Process(target=_deliver, args=(url, receiver_url, started), daemon=True)
    process.start()
    if not started.wait(_START_SECONDS):
        raise RuntimeError("the drain does not start")
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _deliver(url: str, receiver_url: str, started: Signal) -> None:
    async def open_destination(name: str) -> Destination:
        sink = HttpSink(Endpoint(name=name, url=receiver_url, allow_private=True))
        return Destination(name=name, sink=sink, describe=repr, close=sink.aclose)

    async def deliver() -> None:
        store = await open_store(url)
        dispatcher = Dispatcher(
            store,
            AttemptRunner(clock=store.clock, rng=random.Random(7)),
            open_destination,
            owner="bench",
            limits=Limits(run_for=_DRAIN_SECONDS),
        )

        async def emit_one(lease: Lease) -> None:
            await dispatcher.attempt(lease.key)

        async with dispatcher:
            started.set()
            await dispatcher.run(emit_one)

    asyncio.run(deliver())
