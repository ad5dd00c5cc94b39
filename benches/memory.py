"""The memory of ``resonant emit`` while it sends many stored events, in each lane: how much, and whether it grows."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benches.measuring import Comparison, say
from benches.receiver import receiver
from benches.surroundings import ENDPOINT, empty_home, events, prefect_server
from resonant.store import open_store

if TYPE_CHECKING:
    from resonant.settings import Settings

EVENTS, ROUNDS = 20_000, 1
# What makes each lane, and how many times as many events are sent in it: a million in the one that is quick.
_LANES: dict[str, tuple[list[str], int]] = {"task": ([], 1), "bulk": (["--chunk-size", "500"], 50)}
_SAMPLE_SECONDS = 0.25
_AT_MOST_MB = 400
_BATCH = 5_000


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return what came out."""
    with empty_home() as settings, receiver() as url, prefect_server(settings):
        _run("endpoint", "add", ENDPOINT, url, "--allow-private")
        return [
            _measure(settings, lane, options, times * count, rounds)
            for lane, (options, times) in _LANES.items()
        ]


def _measure(settings: Settings, lane: str, options: list[str], count: int, rounds: int) -> Comparison:
    first: list[float] = []
    last: list[float] = []
    for _ in range(rounds):
        asyncio.run(_store(settings, count))
        started = time.monotonic()
        megabytes = _sample("emit", "--endpoint", ENDPOINT, *options)
        say(
            f"  {lane} lane: {count / (time.monotonic() - started):.0f} events/s, {len(megabytes)} samples, "
            f"peak {max(megabytes):.0f} MB"
        )
        quarter = max(1, len(megabytes) // 4)
        first.append(max(megabytes[:quarter]))
        last.append(max(megabytes[-quarter:]))
    what = f"{lane} lane: peak of the last quarter of {count:,} events"
    return Comparison(what, "MB", last, first, "in the first quarter", ours_at_most=_AT_MOST_MB)


async def _store(settings: Settings, count: int) -> None:
    store = await open_store(settings.store_url)
    try:
        for start in range(0, count, _BATCH):
            await store.enqueue(events(min(_BATCH, count - start)), ENDPOINT)
    finally:
        await store.close()


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "resonant", *arguments], stdout=subprocess.DEVNULL, check=True)


def _sample(*arguments: str) -> list[float]:
    """Run a command, and return its resident memory in MB over time."""
    megabytes: list[float] = []
    with subprocess.Popen([sys.executable, "-m", "resonant", *arguments], stdout=sys.stderr) as process:
        while process.poll() is None:
            megabytes.append(_resident_megabytes(process.pid))
            time.sleep(_SAMPLE_SECONDS)
    if process.returncode:
        raise RuntimeError(f"resonant {' '.join(arguments)} ended with {process.returncode}")
    return megabytes


def _resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        lines = status.read_text().splitlines()
        kilobytes = next((line.split()[1] for line in lines if line.startswith("VmRSS:")), "0")
    else:
        ps = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
        kilobytes = ps.stdout or "0"
    return int(kilobytes) / 1000
