"""The latency of single events at random moments while `resonant up` runs: from acceptance to the first attempt's arrival.

Arrival times are from the receiver's journal. The baseline is a request from this process to the same receiver. 480 events
take 20 minutes and span four hand-overs between drains; ``--events 48`` takes two minutes. ``--only PART`` selects by a part
of the name.
"""

import asyncio
import contextlib
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import httpx
import psutil

from benches.comparing import Comparison, apart, is_chosen, say
from benches.surroundings import (
    ENDPOINT,
    empty_home,
    events,
    postgresql,
    running_up,
    save_endpoint,
    shipped_receiver,
)
from resonant.store import WorkerStore
from resonant.testing.journal import read_journal

EVENTS, ROUNDS = 480, 1
_LONGEST_PAUSE_SECONDS = 5.0
_ARRIVAL_SECONDS = 120.0
_FLOW_RUN = "PREFECT__FLOW_RUN_ID"

Database = Literal["SQLite", "PostgreSQL"]
# Name, database, and whether a drain is killed half way.
_PARTS: tuple[tuple[str, Database, bool], ...] = (
    ("SQLite, undisturbed", "SQLite", False),
    ("PostgreSQL, undisturbed", "PostgreSQL", False),
    ("SQLite, a drain is killed", "SQLite", True),
    ("PostgreSQL, a drain is killed", "PostgreSQL", True),
)


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: events.
        rounds: rounds of each part.
        only: parts of names; empty for all.
    """
    found = []
    for name, database, kills in (each for each in _PARTS if is_chosen(each[0], only)):
        measured = [apart(_measure, database, count, kills=kills) for _ in range(rounds)]
        targets = {"max": 10_000.0} if kills else {"p50": 20.0, "p99": 150.0, "max": 1_000.0}
        for what in ("p50", "p99", "max"):
            ours, bare = ([_of(side, what) for side in sides] for sides in zip(*measured, strict=True))
            say(f"  {name}: {what} {ours} ms")
            target = targets.get(what)
            found.append(
                Comparison(f"{what}, {name}", "ms", ours, bare, "for a bare request", ours_at_most=target)
            )
    return found


def _of(latencies: list[float], what: str) -> float:
    if what == "max":
        return max(latencies)
    return statistics.quantiles(latencies, n=100, method="inclusive")[int(what[1:]) - 1]


def _measure(database: Database, count: int, *, kills: bool) -> tuple[list[float], list[float]]:
    """Return the latencies of the events and of the bare requests, in milliseconds."""
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        folder = settings.home.parent
        url = settings.store_url
        if database == "PostgreSQL":
            url = os.environ["RESONANT_DATABASE_URL"] = stack.enter_context(postgresql()).url
        journal = folder / "journal.jsonl"
        receiver = stack.enter_context(shipped_receiver(journal, folder / "receiver.log"))
        up = stack.enter_context(running_up(settings))
        asyncio.run(save_endpoint(receiver))
        sent_at, bare_at = asyncio.run(_produce(url, receiver, count, up if kills else None))
        return _latencies(journal, sent_at), _latencies(journal, bare_at)


async def _produce(
    url: str, receiver: str, count: int, killed: int | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Store events at random moments, and send a bare request after each; return the start times of both."""
    rng = random.Random(7)
    sent_at: dict[str, float] = {}
    bare_at: dict[str, float] = {}
    store = await WorkerStore.open(url)
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            for number, event in enumerate(events(count)):
                await asyncio.sleep(rng.uniform(0, _LONGEST_PAUSE_SECONDS) / 2)
                if killed is not None and number == count // 2:
                    _kill_a_drain(killed)
                sent_at[event.id] = time.time()
                await store.enqueue([event], ENDPOINT)
                await asyncio.sleep(rng.uniform(0, _LONGEST_PAUSE_SECONDS) / 2)
                bare_at[f"bare-{number}"] = time.time()
                await client.post(receiver, headers={"webhook-id": f"bare-{number}"}, content=event.body)
        give_up_at = time.monotonic() + _ARRIVAL_SECONDS
        while (left := await store.unfinished()) and time.monotonic() < give_up_at:
            await asyncio.sleep(0.1)
        if left:
            raise RuntimeError(f"{left} events were not delivered")
    finally:
        await store.close()
    return sent_at, bare_at


def _latencies(journal: Path, began_at: dict[str, float]) -> list[float]:
    first: dict[str, float] = {}
    for received in read_journal(journal):
        first.setdefault(received.webhook_id, received.received_at)
    return [(first[key] - began) * 1000 for key, began in began_at.items()]


def _kill_a_drain(up: int) -> None:
    """Kill the older of the processes that run flows."""
    flow_runs = []
    for each in psutil.Process(up).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if _FLOW_RUN in each.environ():
                flow_runs.append(each)
    killed = min(flow_runs, key=lambda each: each.create_time())
    say(f"  killed: {' '.join(killed.cmdline())[:100]}")
    killed.kill()
