"""An endpoint's rate, shared by four drains: the requests in any second, also after one drain is killed.

The figures are from the receiver's journal; a second may begin at any request.
"""

import asyncio
import bisect
import contextlib
import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from benches.comparing import Comparison, apart, say
from benches.contenders.ours import Database
from benches.lanes import Lane
from benches.processes import kept, piped, python
from benches.standings import Standing
from benches.surroundings import ENDPOINT, empty_home, events, kept_prefect_server, postgresql, save_endpoint
from resonant.store import WorkerStore
from resonant.testing import read_journal

EVENTS, ROUNDS = 1_500, 1
_RATE = 50.0
_MOST = 52
_LEAST_GOODPUT = 0.9
_DRAINS = 4
_START_SECONDS = 90.0
# The share of the events after which one of the drains is killed.
_KILLED_AFTER = 0.4
_DATABASES: tuple[Database, ...] = ("SQLite", "PostgreSQL")
# Each lane, and whether a drain is killed.
_CASES: tuple[tuple[Lane, bool], ...] = (("bulk", False), ("bulk", True), ("task", False))


def run(count: int, rounds: int) -> list[Comparison | Standing]:
    """Measure, and return the results."""
    found: list[Comparison | Standing] = []
    for database in _DATABASES:
        for lane, kills in _CASES:
            # Each in its own process: Prefect's client remembers its first server.
            seen = [apart(_measured, database, lane, count, kills=kills) for _ in range(rounds)]
            what = f"{_DRAINS} drains, {lane} lane, {database}" + (", one killed" if kills else "")
            most, goodput = zip(*seen, strict=True)
            rates = [_RATE] * rounds
            found += [
                Comparison(
                    f"{what}: most in a second", "requests", most, rates, "the rate", ours_at_most=_MOST
                ),
                Comparison(
                    f"{what}: goodput",
                    "events/s",
                    goodput,
                    rates,
                    "the rate",
                    # In the task lane, Prefect is too slow on a busy machine.
                    ratio_at_least=_LEAST_GOODPUT if lane == "bulk" else None,
                ),
            ]
    return found


def _measured(database: Database, lane: Lane, count: int, *, kills: bool) -> tuple[float, float]:
    """Send this many events; return the most requests in any second, and the events per second."""
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        settings.home.mkdir(parents=True)
        journal, log = settings.home / "journal.jsonl", settings.home / "log"
        if database == "PostgreSQL":
            os.environ["RESONANT_DATABASE_URL"] = stack.enter_context(postgresql()).url
        stack.enter_context(kept_prefect_server(settings))
        url = stack.enter_context(_receiver(journal, log))
        asyncio.run(_prepare(os.environ.get("RESONANT_DATABASE_URL", settings.store_url), url, count))
        drain = functools.partial(
            kept, python("benches.contenders.workers.drain"), log=log, variables={"BENCH_LANE": lane}
        )
        drains = [stack.enter_context(drain()) for _ in range(_DRAINS)]
        until = count * _KILLED_AFTER if kills else count
        _wait_for(journal, until)
        if kills:
            os.kill(drains[0], signal.SIGKILL)
            # The other drains get its deliveries only once its leases expire.
            _wait_for(journal, count * 0.9)
        times = sorted(each.received_at for each in read_journal(journal))
    most = max(bisect.bisect_left(times, start + 1) - i for i, start in enumerate(times))
    spare = int(_RATE * 5)  # while not all drains have started
    goodput = (len(times) - 1 - spare) / (times[-1] - times[spare])
    say(f"  {database}, {lane} lane: at most {most} in a second, {goodput:.1f}/s")
    return float(most), goodput


@contextlib.contextmanager
def _receiver(journal: Path, log: Path) -> Iterator[str]:
    command = python("resonant.testing", "--journal", str(journal))
    with piped(command, log=log, variables={}) as process:
        # It represents another machine, so a wait for a processor must not bunch its requests.
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, process.pid, -10)
        yield cast("IO[bytes]", process.stdout).readline().decode().strip()
        process.terminate()


async def _prepare(url: str, receiver: str, count: int) -> None:
    await save_endpoint(receiver, rate=_RATE)
    store = await WorkerStore.open(url)
    try:
        await store.enqueue(events(count), ENDPOINT)
    finally:
        await store.close()


def _wait_for(journal: Path, count: float) -> None:
    """Wait until this many requests have arrived."""
    give_up_at = time.monotonic() + _START_SECONDS + 2 * count / _RATE
    seen = 0
    with journal.open() as lines:
        while seen < count:
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"{seen} of {count:g} requests arrived in time")
            seen += sum(1 for _ in lines)
            time.sleep(0.1)
