"""Processes that upgrade a store of 0.1.0 are killed at random moments, while producers store new and known events."""

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from faults import IS_LONG

from benches.old_store import in_database, make_old_store
from resonant.store import open_store
from support.upgraded_rows import new_rows, old_rows
from support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS, EVENTS = (50, 100_000) if IS_LONG else (3, 5_000)
PRODUCERS = 2
# The aim is one second, and a loaded machine takes three. The short form only counts what they store meanwhile.
LONGEST_WAIT_SECONDS = 30.0


def started(*arguments: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-m", "benches.upgrade_processes", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen) -> None:
    process.stdin.write("go\n")
    process.stdin.flush()


class Producer:
    """A producer at work; ``stop`` returns the ids of the new events, and its longest wait in seconds."""

    def __init__(self, url: str) -> None:
        self.process = started("produce", url, str(EVENTS))
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout))
        self._reader.start()
        go(self.process)

    def stop(self) -> tuple[list[str], float]:
        self.process.stdin.close()
        self.process.wait(PATIENCE_SECONDS)
        self._reader.join()
        assert self.process.stderr.read() == ""
        found = [line.split() for line in self.lines]
        return [each[0] for each in found], max(float(each[1]) for each in found)


def kill_until_done(url: str, rng: random.Random) -> int:
    """Start upgrades, often two at once, and kill them, until one has ended by itself; return the number of kills."""
    kills = 0
    while True:
        upgraders = [started("open", url) for _ in range(rng.choice((1, 1, 2)))]
        for each in upgraders:
            go(each)
        # Often within the first transaction, which is short; later and later, so that it ends on a busy machine too.
        time.sleep(rng.uniform(0, rng.choice((0.05, 0.5, 2.0)) * max(1, kills / 20)))
        for each in upgraders:
            each.kill()
            each.wait()
            assert "Traceback" not in each.stderr.read()
        kills += sum(each.returncode != 0 for each in upgraders)
        if any(each.returncode == 0 for each in upgraders):
            return kills


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_killed_upgrades_lose_nothing_and_producers_do_not_wait(request, database):
    seed = f"{os.environ['RESONANT_CHAOS_SEED']}, {database}"
    rng = random.Random(seed)
    kills, waits = 0, []
    while kills < KILLS:
        server = request.getfixturevalue(database) if database == "postgresql" else None
        url = server.empty_database() if server else new_file(request)
        asyncio.run(in_database(url, lambda connection: make_old_store(connection, EVENTS)))
        before = asyncio.run(in_database(url, old_rows))
        producers = [Producer(url) for _ in range(PRODUCERS)]
        try:
            kills += kill_until_done(url, rng)
        finally:
            produced = [each.stop() for each in producers]
        waits += [wait for _, wait in produced]
        new = sorted(event_id for ids, _ in produced for event_id in ids)
        assert asyncio.run(checked(url)) == (EVENTS + len(new), True)
        assert asyncio.run(in_database(url, new_rows)) == before
        assert asyncio.run(in_database(url, new_ids)) == new
    print(f"{database}: {kills} kills, longest wait of a producer {max(waits):.2f} s (seed {seed})")
    assert max(waits) < LONGEST_WAIT_SECONDS


def new_file(request) -> str:
    folder = request.getfixturevalue("tmp_path_factory").mktemp("upgrade")
    return f"sqlite:///{folder}/resonant.db"


async def checked(url: str) -> tuple[int, bool]:
    async with open_store(url) as store:
        status = await store.status()
        if url.startswith("sqlite"):
            for check in ("integrity_check", "foreign_key_check"):
                found = await store.read(
                    lambda each, check=check: each.exec_driver_sql(f"PRAGMA {check}").all()
                )
                assert found in ([], [("ok",)])
    return status.accepted, status.balanced


def new_ids(connection) -> list[str]:
    query = """SELECT e.id FROM resonant_events e JOIN resonant_deliveries d ON d.event_key = e.key
        WHERE e.id LIKE 'new_%' ORDER BY e.id"""
    return sorted(connection.exec_driver_sql(query).scalars())
