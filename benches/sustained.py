"""A sustained backlog of a million events with `resonant up`: the memory of each process, and the size of Prefect's database.

The backlog is refilled while it lasts. To detect growth, the first tenth of the delivered events is skipped, and the peak of the
last quarter of the rest is compared with that of the first.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections import defaultdict
from pathlib import Path

import psutil

from benches.comparing import Comparison, Stopwatch, say
from benches.processes import Tree, wait_until_quiet
from benches.receiver import Receiver, counting_receiver
from benches.surroundings import ENDPOINT, empty_home, events, running_up, save_endpoint
from resonant.settings import Settings
from resonant.store import WorkerStore

EVENTS, ROUNDS = 1_000_000, 1
_BACKLOG, _BATCH = 20_000, 5_000
_STARTING_PART = 0.1
_LOOK_SECONDS, _QUIET_SECONDS = 0.25, 60.0
_GROWTH_AT_MOST, _BYTES_AT_MOST = 1.10, 300.0
# What a process's command line or environment contains, and its name in the table.
_NAMES = {"PREFECT__FLOW_RUN_ID": "drain", "deployments.server": "server", "worker": "worker"}


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    found = []
    for _ in range(rounds):
        with empty_home() as settings, counting_receiver() as receiver, running_up(settings) as up:
            found += asyncio.run(_measure(settings, receiver, up, count))
    return found


async def _measure(settings: Settings, receiver: Receiver, up: int, count: int) -> list[Comparison]:
    await save_endpoint(receiver.url)
    receiver.expect(0)  # never reached, so the receiver prints nothing on its own
    store = await WorkerStore.open(settings.store_url)
    # The peaks of each process in the first and in the last quarter, in MB.
    peaks: tuple[dict[str, float], dict[str, float]] = (defaultdict(float), defaultdict(float))
    skipped = round(_STARTING_PART * count)
    quarter = (count - skipped) // 4
    tree = Tree([up])
    wait_until_quiet([tree], _QUIET_SECONDS)
    before, cpu_before = _database_bytes(), tree.cpu_seconds()
    try:
        stored = delivered = 0
        with Stopwatch() as watch:
            while delivered < count:
                if stored < count and stored - delivered < _BACKLOG:
                    batch = min(_BATCH, count - stored)
                    await store.enqueue(events(batch), ENDPOINT)
                    stored += batch
                else:
                    await asyncio.sleep(_LOOK_SECONDS)
                delivered = receiver.so_far().events
                for side, part in zip(
                    peaks,
                    (range(skipped, skipped + quarter), range(count - quarter, count + 1)),
                    strict=True,
                ):
                    if delivered in part:
                        for name, megabytes in _megabytes(up).items():
                            side[name] = max(side[name], megabytes)
    finally:
        await store.close()
    wait_until_quiet([tree], _QUIET_SECONDS)  # Prefect records the task runs
    per_event = (_database_bytes() - before) / count
    say(
        f"  {count / watch.seconds:.0f} events/s, {(tree.cpu_seconds() - cpu_before) * 1000 / count:.2f} ms of CPU and "
        f"{per_event:.0f} bytes of Prefect's database per event"
    )
    first, last = peaks
    return [
        *(
            Comparison(
                f"{count:,} events: {name}, peak of the last quarter",
                "MB",
                [last[name]],
                [first[name]],
                f"in the first quarter after {skipped:,}",
                ratio_at_most=_GROWTH_AT_MOST,
            )
            for name in first
            if name in last
        ),
        Comparison(
            f"{count:,} events: Prefect's database",
            "bytes per event",
            [per_event],
            [_BYTES_AT_MOST],
            "at most",
            ours_at_most=_BYTES_AT_MOST,
        ),
    ]


def _megabytes(up: int) -> dict[str, float]:
    """Return the resident memory of each process that runs Python for long, by its name; the largest of the drains."""
    found: dict[str, float] = defaultdict(float)
    for process in [psutil.Process(up), *psutil.Process(up).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            said = " ".join([*process.cmdline(), *process.environ()])
            name = next((name for part, name in _NAMES.items() if part in said), "up")
            found[name] = max(found[name], process.memory_info().rss / 1e6)
    return found


def _database_bytes() -> int:
    path = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)
