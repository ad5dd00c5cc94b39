"""`resonant up` and `resonant enqueue`: throughput and CPU of a backlog, and latency at half that rate.

The baseline is a bare httpx loop to the same receiver, which ends before the backlog begins. CPU includes `resonant up` with its
server, worker and drains, but not the receiver.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from benches.comparing import Comparison, Stopwatch, say
from benches.delivery import post_all
from benches.processes import Tree, wait_until_quiet
from benches.receiver import receiver
from benches.surroundings import ENDPOINT, empty_home, events, running_up, save_endpoint
from resonant.store import WorkerStore

if TYPE_CHECKING:
    from resonant.settings import Settings

EVENTS, ROUNDS = 10_000, 3
_SETTLE_SECONDS = 45.0
_QUIET_SECONDS = 30.0
_POLL_SECONDS = 0.02


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    with empty_home() as settings, receiver() as url, running_up(settings) as up:
        asyncio.run(save_endpoint(url))
        time.sleep(_SETTLE_SECONDS)  # until both drains run
        return asyncio.run(_measure(settings, url, Tree([up]), count, rounds))


async def _measure(settings: Settings, url: str, up: Tree, count: int, rounds: int) -> list[Comparison]:
    rates, bare, cpu = [], [], []
    store = await WorkerStore.open(settings.store_url)
    try:
        for _ in range(rounds):
            wait_until_quiet([up], _QUIET_SECONDS)
            bare.append(await post_all(url, count, settings.endpoint_concurrency))
            before = up.cpu_seconds()
            with Stopwatch() as watch:
                await store.enqueue(events(count), ENDPOINT)
                while await store.unfinished():
                    await asyncio.sleep(_POLL_SECONDS)
            rates.append(count / watch.seconds)
            wait_until_quiet([up], _QUIET_SECONDS)  # Prefect records the task runs
            cpu.append((up.cpu_seconds() - before) * 1000 / count)
            say(f"  {rates[-1]:.0f} events/s, {cpu[-1]:.2f} ms of CPU per event; bare {bare[-1]:.0f}/s")
    finally:
        await store.close()
    one_core = [1000 / rate for rate in bare]
    return [
        Comparison(
            "`up`, then a backlog", "events/s", rates, bare, "for a bare httpx loop", ours_at_least=2000
        ),
        Comparison(
            "CPU of all processes of `up`",
            "ms per event",
            cpu,
            one_core,
            "of wall time of the loop",
            ours_at_most=1.0,
        ),
    ]
