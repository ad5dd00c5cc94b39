"""An emission from a store with a history of many deliveries, compared in alternating rounds with one without a history.

It measures whole flow runs for every endpoint, from the call to the end, and the CPU of a drain that has nothing to send.
``--events`` changes the history in proportion.
"""

import asyncio
import contextlib
import os
import random
from functools import partial
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benches.comparing import Comparison, Round, Stopwatch, all_in_turn, say
from benches.history import fill_history
from benches.lanes import LANES, Lane
from benches.processes import Tree, wait_until_quiet
from benches.receiver import receiver
from benches.surroundings import (
    Missing,
    empty_home,
    events,
    kept_prefect_server,
    postgresql,
    save_endpoint,
)
from benches.task_lane import emit_stored
from resonant.delivery.attempt import AttemptRunner
from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.settings import Settings
from resonant.store import WorkerStore

EVENTS, ROUNDS = 2_000, 5
# Stored deliveries for each event that is sent.
_HISTORIES = (0, 50, 500)
# Factor of the number of events in each lane: otherwise the start of the flow run would be half of the bulk lane's time.
_TIMES = {"task": 1, "bulk": 5}
_AT_LEAST = 0.95
_IDLE_SECONDS = 5.0
_IDLE_AT_MOST = 1.5
_CLOSED = 500
_QUIET_SECONDS = 120.0


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        url = stack.enter_context(receiver())
        try:
            database = stack.enter_context(postgresql()).url
        except Missing as error:
            say(f"  without PostgreSQL: {error}")
            database = None
        server = stack.enter_context(kept_prefect_server(settings))
        growth = _Growth(Tree([server.supervisor.pid]), count, rounds)
        return asyncio.run(growth.compare(settings, url, database))


class _Growth:
    def __init__(self, server: Tree, count: int, rounds: int) -> None:
        self._server = server
        self._count = count
        self._rounds = rounds

    async def compare(self, settings: Settings, url: str, postgresql_url: str | None) -> list[Comparison]:
        from prefect.logging.handlers import APILogHandler

        await save_endpoint(url)
        stores = {"SQLite": await self._filled_stores(settings, None)}
        if postgresql_url is not None:
            stores["PostgreSQL"] = await self._filled_stores(settings, postgresql_url)
        found: list[Comparison] = []
        for lane in LANES:
            say(
                f"  {lane} lane: {', '.join(f'{size:,}' for size in self._sizes)} on {' and on '.join(stores)}"
            )
            found += await self._compare_lane(lane, stores)
        found += await self._compare_idle(stores)
        found += await self._compare_closed(stores)
        await APILogHandler.aflush()  # before the server ends
        return found

    async def _compare_lane(self, lane: Lane, stores: dict[str, list[str]]) -> list[Comparison]:
        urls = [url for of_database in stores.values() for url in of_database]
        cpu: dict[str, list[float]] = {url: [] for url in urls}
        measured = await all_in_turn([self._emission(url, lane, cpu[url]) for url in urls], self._rounds)
        speeds = dict(zip(urls, measured, strict=True))
        found = []
        for database, (none, *others) in stores.items():
            for size, url in zip(self._sizes[1:], others, strict=True):
                what = f"{lane} lane, {database}, {size:,} deliveries of history"
                found += [
                    Comparison(what, "events/s", speeds[url], speeds[none], "none", ratio_at_least=_AT_LEAST),
                    # Without the warm-up round.
                    Comparison(
                        f"{what}, CPU of the process", "ms an event", cpu[url][1:], cpu[none][1:], "none"
                    ),
                ]
        return found

    async def _compare_idle(self, stores: dict[str, list[str]]) -> list[Comparison]:
        found = []
        for database, urls in stores.items():
            say(f"  idle drain on {database}: {', '.join(f'{size:,}' for size in self._sizes)}")
            none, *others = await all_in_turn([partial(_idle, url) for url in urls], self._rounds)
            for size, cpu in zip(self._sizes[1:], others, strict=True):
                what = f"idle drain, {database}, {size:,} deliveries of history, CPU of the process"
                found.append(Comparison(what, "ms a second", cpu, none, "none", ratio_at_most=_IDLE_AT_MOST))
        return found

    async def _compare_closed(self, stores: dict[str, list[str]]) -> list[Comparison]:
        """Measure a drain that has nothing to send, since no endpoint with due deliveries can be opened."""
        found = []
        for database, (url, *_) in stores.items():
            say(f"  idle drain on {database}, {_CLOSED} closed endpoints")
            without = [await _idle(url) for _ in range(self._rounds)]
            store = await WorkerStore.open(url)
            for number in range(_CLOSED):
                await store.enqueue(events(1), f"closed-{number}")
            await store.close()
            closed = [await _idle(url) for _ in range(self._rounds)]
            what = f"idle drain, {database}, {_CLOSED} closed endpoints, CPU of the process"
            found.append(Comparison(what, "ms a second", closed, without, "without them"))
        return found

    @property
    def _sizes(self) -> list[int]:
        return [each * self._count for each in _HISTORIES]

    def _emission(self, url: str, lane: Lane, cpu: list[float]) -> Round:
        count = self._count * _TIMES[lane]

        async def emit() -> float:
            os.environ["RESONANT_DATABASE_URL"] = url
            _, watch = await emit_stored(url, count, endpoint=None, lane=lane)
            cpu.append(watch.cpu_seconds / count * 1000)
            # The server's remaining records must not disturb the next round.
            await asyncio.to_thread(wait_until_quiet, [self._server], _QUIET_SECONDS)
            return count / watch.seconds

        return emit

    async def _filled_stores(self, settings: Settings, server_url: str | None) -> list[str]:
        """Make a store for each size, and return their URLs."""
        urls = []
        for size in self._sizes:
            if server_url is None:
                url = f"sqlite:///{settings.home / f'history-{size}.db'}"
            else:
                url = await _create_database(server_url, f"history_{size}")
            await (await WorkerStore.open(url)).close()
            if size:
                with Stopwatch() as watch:
                    await fill_history(url, size)
                say(f"  {url.partition(':')[0]}: {size:,} deliveries after {watch.seconds:.0f} s")
            urls.append(url)
        return urls


async def _idle(url: str) -> float:
    """Drain a store that has nothing due; return the milliseconds of CPU per second."""

    async def send_nothing(_: object) -> Any:
        raise RuntimeError("a delivery is due")

    store = await WorkerStore.open(url)
    try:
        runner = AttemptRunner(clock=store.clock, rng=random.Random(), policy=lambda _: RetryPolicy())
        limits = Limits(run_for=_IDLE_SECONDS)
        async with Dispatcher(store, runner, send_nothing, owner="idle", limits=limits) as dispatcher:
            with Stopwatch() as watch:
                await dispatcher.run(send_nothing)
    finally:
        await store.close()
    return watch.cpu_seconds / watch.seconds * 1000


async def _create_database(server_url: str, name: str) -> str:
    engine = create_async_engine(server_url.replace("postgresql", "postgresql+asyncpg", 1))
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    return server_url.replace("/postgres?", f"/{name}?")
