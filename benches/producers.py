"""The cost of notifications: sixteen producers store one event per transaction in PostgreSQL.

A commit with a notification takes a lock that only one commit of the server can hold. The baseline is ``wake=False``. While a
drain delivers on the same cores, being woken for each event costs it more, too.
"""

import asyncio
import contextlib
import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Event as Signal

from benches.comparing import Comparison, Round, Stopwatch, in_turn
from benches.receiver import receiver
from benches.surroundings import ENDPOINT, empty_home, events, postgresql
from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.events import Lease
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.store import WorkerStore

EVENTS, ROUNDS = 4_000, 5
_PRODUCERS, _PROCESSES = 16, 2
_AT_LEAST = 0.95
_DRAIN_SECONDS = 3600.0
_START_SECONDS = 30.0


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    found = []
    with empty_home(), postgresql() as server, receiver() as url:
        for what, drain in (
            ("no drain runs", contextlib.nullcontext()),
            ("a drain delivers", _drain(server.url, url)),
        ):
            with drain:
                measured = asyncio.run(_compare(server.url, count, rounds))
            found.append(
                Comparison(
                    f"{what}, waking", "events/s", *measured, "with wake=False", ratio_at_least=_AT_LEAST
                )
            )
    return found


async def _compare(url: str, count: int, rounds: int) -> tuple[list[float], list[float]]:
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as pool:
        loop = asyncio.get_running_loop()

        def side(*, wake: bool) -> Round:
            async def produce() -> float:
                arguments = (url, count // _PROCESSES, wake)
                with Stopwatch() as watch:
                    await asyncio.gather(
                        *(loop.run_in_executor(pool, _produce, *arguments) for _ in range(_PROCESSES))
                    )
                return count / watch.seconds

            return produce

        return await in_turn(side(wake=True), side(wake=False), rounds)


def _produce(url: str, count: int, wake: bool) -> None:
    """Store events with several concurrent producers in this process."""
    asyncio.run(_store_side_by_side(url, count, wake=wake))


async def _store_side_by_side(url: str, count: int, *, wake: bool) -> None:
    left = iter(events(count))

    async def one_after_the_other() -> None:
        store = await WorkerStore.open(url)
        try:
            for event in left:
                await store.enqueue([event], ENDPOINT, wake=wake)
        finally:
            await store.close()

    await asyncio.gather(*(one_after_the_other() for _ in range(_PRODUCERS // _PROCESSES)))


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
        store = await WorkerStore.open(url)
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
