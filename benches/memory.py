"""The peak and the growth of the memory of ``resonant emit`` while it sends many stored events, in each lane.

To detect growth, the first tenth of the events that the receiver counts is skipped, and the last quarter of the rest is
compared with the first.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benches.comparing import Comparison, say
from benches.receiver import Receiver, counting_receiver
from benches.surroundings import ENDPOINT, empty_home, events, prefect_server
from resonant.store import WorkerStore

if TYPE_CHECKING:
    from benches.lanes import Lane
    from resonant.settings import Settings

EVENTS, ROUNDS = 20_000, 1
# The factor of each lane's number of events: a million in the fast bulk lane.
_TIMES: dict[Lane, int] = {"task": 1, "bulk": 50}
_SAMPLE_SECONDS = 0.1
_AT_MOST_MB = 400
_AT_MOST_GROWTH = 1.10
_BATCH = 5_000
# The share of the events during which the process imports, connects and fills caches; growth until then is not a leak.
_STARTING_PART = 0.1


class _Sample(NamedTuple):
    received: int
    megabytes: float


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    with empty_home() as settings, counting_receiver() as receiver, prefect_server(settings):
        _run("endpoint", "add", ENDPOINT, receiver.url, "--allow-private")
        return [
            comparison
            for lane, times in _TIMES.items()
            for comparison in _measure(settings, receiver, lane, times * count, rounds)
        ]


def _measure(settings: Settings, receiver: Receiver, lane: Lane, count: int, rounds: int) -> list[Comparison]:
    peak: list[float] = []
    first: list[float] = []
    last: list[float] = []
    started_up = round(_STARTING_PART * count)
    quarter = (count - started_up) // 4
    for _ in range(rounds):
        asyncio.run(_store(settings, count))
        receiver.expect(count + 1)  # never reached, so the receiver prints its count only on request
        started = time.monotonic()
        samples = _sample(receiver, "emit", "--endpoint", ENDPOINT, "--lane", lane)
        peak.append(max(each.megabytes for each in samples))
        first.append(_peak(samples, range(started_up, started_up + quarter)))
        last.append(_peak(samples, range(count - quarter, count + 1)))
        say(
            f"  {lane} lane: {count / (time.monotonic() - started):.0f} events/s, {len(samples)} samples, "
            f"peak {peak[-1]:.0f} MB"
        )
    against = f"in the first quarter after {started_up:,} events"
    return [
        Comparison(
            f"{lane} lane: peak, {count:,} events", "MB", peak, first, against, ours_at_most=_AT_MOST_MB
        ),
        Comparison(
            f"{lane} lane: peak of the last quarter",
            "MB",
            last,
            first,
            against,
            ratio_at_most=_AT_MOST_GROWTH,
        ),
    ]


def _peak(samples: list[_Sample], received: range) -> float:
    megabytes = [each.megabytes for each in samples if each.received in received]
    if not megabytes:
        raise RuntimeError(
            f"no sample between {received.start:,} and {received.stop:,} events: too few events"
        )
    return max(megabytes)


async def _store(settings: Settings, count: int) -> None:
    store = await WorkerStore.open(settings.store_url)
    try:
        for start in range(0, count, _BATCH):
            await store.enqueue(events(min(_BATCH, count - start)), ENDPOINT)
    finally:
        await store.close()


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "resonant", *arguments], stdout=subprocess.DEVNULL, check=True)


def _sample(receiver: Receiver, *arguments: str) -> list[_Sample]:
    """Run a command, and return its resident memory over time, with the number of events that had arrived."""
    samples: list[_Sample] = []
    with subprocess.Popen([sys.executable, "-m", "resonant", *arguments], stdout=sys.stderr) as process:
        while process.poll() is None:
            if megabytes := _resident_megabytes(process.pid):
                samples.append(_Sample(receiver.so_far().events, megabytes))
            time.sleep(_SAMPLE_SECONDS)
    if process.returncode:
        raise RuntimeError(f"resonant {' '.join(arguments)} ended with {process.returncode}")
    return samples


def _resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        lines = status.read_text().splitlines()
        kilobytes = next((line.split()[1] for line in lines if line.startswith("VmRSS:")), "0")
    else:
        ps = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
        kilobytes = ps.stdout or "0"
    return int(kilobytes) / 1000
