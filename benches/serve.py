"""``resonant serve`` on SQLite, one endpoint and a token: speed, latency, memory and overload.

The speed of single events is compared with an application that only answers, that of batches with ``Store.enqueue``. wrk sends
(``benches/serve.lua``); for other loads, ``benches/serve_clients.py``. ``--only PART`` selects parts by their names.
"""

import asyncio
import contextlib
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx

from benches.comparing import Comparison, Stopwatch, in_turn, is_chosen, say
from benches.processes import PeakMemory, Tree, kept, python
from benches.serve_clients import overload, paced, slow_clients
from benches.surroundings import ENDPOINT, Missing, empty_home, events
from resonant.intake.access.token_changes import create
from resonant.local.server import free_port
from resonant.routing import new_subscription
from resonant.store import open_store
from resonant.store.shared.subscriptions import add_subscription
from resonant.store.views.known_names import remember_endpoints

EVENTS, ROUNDS = 20_000, 3
_SCRIPT = Path(__file__).with_name("serve.lua")
_CONNECTIONS = 50
_BATCH = 100
_EVENTS_PER_SECOND = 2_000  # for the duration of the load, from the number of events
_SINGLE_AT_LEAST, _BATCHES_AT_LEAST = 1_500, 8_000
_P99_AT_MOST_MS = 50
_SLOW_CLIENTS, _SLOW_SECONDS, _MB_AT_MOST = 1_000, 10.0, 150
_FLOODING, _FLOOD_BATCH = 64, 1_000
_START_SECONDS = 30.0


class _Server(NamedTuple):
    port: int
    pid: int
    token: str
    store_url: str


_prefixes = (f"r{number}" for number in itertools.count())


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: events of a paced load; other loads take as long as these at 2,000 a second.
        rounds: rounds of each part.
        only: parts of names; empty for all.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise Missing("no wrk: on Debian and Ubuntu, apt-get install wrk")
    parts: dict[str, Callable[[str, int, int], Coroutine[None, None, Comparison]]] = {
        "single events": _single,
        "batches": _batches,
        "half the rate": _half_the_rate,
        "slow clients": _slow,
        "overload": _overload,
    }
    _allow_connections()
    return [asyncio.run(part(wrk, count, rounds)) for name, part in parts.items() if is_chosen(name, only)]


async def _single(wrk: str, count: int, rounds: int) -> Comparison:
    async with _serve() as server, _bare() as bare:
        ours, baseline = await in_turn(
            lambda: _wrk(wrk, server, 1, count), lambda: _wrk(wrk, bare, 1, count), rounds
        )
    return Comparison(
        f"single events over {_CONNECTIONS} connections",
        "events/s",
        ours,
        baseline,
        "of an application that only answers",
        ours_at_least=_SINGLE_AT_LEAST,
    )


async def _batches(wrk: str, count: int, rounds: int) -> Comparison:
    async with _serve() as server:

        async def enqueue() -> float:
            given = events(count)
            async with open_store(f"{server.store_url}-baseline") as store:
                with Stopwatch() as watch:
                    for start in range(0, count, _BATCH):
                        await store.enqueue(given[start : start + _BATCH], ENDPOINT)
            return count / watch.seconds

        ours, baseline = await in_turn(lambda: _wrk(wrk, server, _BATCH, count), enqueue, rounds)
    return Comparison(
        f"events in batches of {_BATCH}",
        "events/s",
        ours,
        baseline,
        f"of `Store.enqueue` with {_BATCH} events",
        ours_at_least=_BATCHES_AT_LEAST,
    )


async def _half_the_rate(wrk: str, count: int, rounds: int) -> Comparison:
    async with _serve() as server, _bare() as bare:
        rate = await _wrk(wrk, server, 1, count) / 2

        async def p99(of: _Server) -> float:
            took = await paced(
                of.port, of.token, next(_prefixes), rate=rate, count=count, number=_CONNECTIONS
            )
            return statistics.quantiles(took, n=100)[98] * 1000

        ours, baseline = await in_turn(lambda: p99(server), lambda: p99(bare), rounds)
    return Comparison(
        f"p99 of single events at {rate:,.0f}/s",
        "ms",
        ours,
        baseline,
        "of an application that only answers",
        ours_at_most=_P99_AT_MOST_MS,
    )


async def _slow(_wrk: str, _count: int, rounds: int) -> Comparison:
    peaks, idle = [], []
    for _ in range(rounds):
        async with _serve() as server:
            tree = Tree([server.pid])
            idle.append(tree.resident_megabytes())
            with PeakMemory(tree) as memory:
                async with slow_clients(server.port, server.token, _SLOW_CLIENTS):
                    took = await paced(
                        server.port,
                        server.token,
                        "quick",
                        rate=100,
                        count=int(100 * _SLOW_SECONDS),
                        number=_CONNECTIONS,
                    )
        peaks.append(memory.megabytes)
        p99 = statistics.quantiles(took, n=100)[98] * 1000
        say(f"  {_SLOW_CLIENTS:,} slow clients: {memory.megabytes:.0f} MB; p99 of another one {p99:.1f} ms")
    return Comparison(
        f"peak memory with {_SLOW_CLIENTS:,} slow clients",
        "MB",
        peaks,
        idle,
        "when idle",
        ours_at_most=_MB_AT_MOST,
    )


async def _overload(_wrk: str, count: int, rounds: int) -> Comparison:
    stored, answered = [], []
    for _ in range(rounds):
        async with _serve() as server:
            with PeakMemory(Tree([server.pid])) as memory:
                found = await overload(
                    server.port, server.token, seconds=_seconds(count), number=_FLOODING, batch=_FLOOD_BATCH
                )
            stored.append(float(await _count_stored(server)))
        answered.append(float(found.accepted * _FLOOD_BATCH))
        say(
            f"  {_FLOODING} producers with batches of {_FLOOD_BATCH:,}: {found.accepted:,} answers 202 in "
            f"{_seconds(count):.0f} s, {found.refused:,} answers 503; {memory.megabytes:.0f} MB"
        )
        if found.others or not found.refused:
            raise RuntimeError(f"no answer 503 with Retry-After, or other ones: {found.others[:1]}")
    return Comparison(
        "events stored under overload",
        "events",
        stored,
        answered,
        "answered 202",
        ratio_at_least=1,
        ratio_at_most=1,
    )


async def _wrk(wrk: str, server: _Server, batch: int, count: int) -> float:
    """Return the accepted events per second."""
    command = [wrk, "-t1", f"-c{_CONNECTIONS}", f"-d{_seconds(count):.0f}s", "-s", str(_SCRIPT)]
    arguments = [f"http://127.0.0.1:{server.port}", "--", next(_prefixes), str(batch), server.token]
    tree = Tree([server.pid])
    before = tree.cpu_seconds()
    done = await asyncio.to_thread(
        subprocess.run, [*command, *arguments], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} requests failed")
    accepted = found["accepted"] * batch
    say(f"  {1000 * (tree.cpu_seconds() - before) / accepted:.3f} ms of CPU per event")
    return float(accepted / found["seconds"])


def _seconds(count: int) -> float:
    return max(1.0, count / _EVENTS_PER_SECOND)


@contextlib.asynccontextmanager
async def _serve() -> AsyncIterator[_Server]:
    """Run `resonant serve` on an empty store with one endpoint, which is subscribed to every event."""
    with empty_home() as settings:
        settings.home.mkdir()
        token = await _prepare(settings.store_url)
        port = free_port()
        log = settings.home / "serve.log"
        # One token sends everything.
        command = python("resonant", "serve", "--port", str(port), "--token-bytes", str(10**9))
        with kept(command, log=log) as pid:
            await _wait_until_ready(port)
            yield _Server(port, pid, token, settings.store_url)


async def _prepare(store_url: str) -> str:
    """Create the store, and return a token."""
    async with open_store(store_url) as store:
        await store.write(remember_endpoints, [ENDPOINT])
        await store.write(add_subscription, new_subscription(ENDPOINT, {}), who="bench", now=time.time())
        token = await store.write(partial(create, name="bench", who="bench", now=time.time()))
    assert token is not None
    return token


@contextlib.asynccontextmanager
async def _bare() -> AsyncIterator[_Server]:
    port = free_port()
    with kept(python("benches.bare_app", str(port)), log=Path(os.devnull)) as pid:
        await _wait_until_ready(port)
        yield _Server(port, pid, "none", "")


async def _wait_until_ready(port: int) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    async with httpx.AsyncClient(trust_env=False) as client:
        while time.monotonic() < give_up_at:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"http://127.0.0.1:{port}/readyz")).is_success:
                    return
            await asyncio.sleep(0.1)
    raise RuntimeError("the server does not start")


async def _count_stored(server: _Server) -> int:
    async with open_store(server.store_url) as store:
        return (await store.status()).accepted


def _allow_connections() -> None:
    """Allow this process enough open files for the slow clients."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
