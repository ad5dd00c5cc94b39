"""The rate of storing JSON lines of 300 bytes in SQLite, against bare sqlite3 with the same bytes and durability."""

import asyncio
import contextlib
import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from benches.comparing import Comparison, Stopwatch, in_turn
from benches.surroundings import ENDPOINT, empty_home, lines, write_lines
from resonant.cli.send.files import BATCH_LINES
from resonant.input_lines import parse_event
from resonant.routing import new_subscription
from resonant.settings import Settings
from resonant.store import WorkerStore
from resonant.store.shared.subscriptions import add_subscription

EVENTS = 50_000
SUBSCRIPTIONS = 100
_AT_LEAST = 15_000


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    with empty_home() as settings:
        return asyncio.run(_compare(settings, count, rounds))


async def _compare(settings: Settings, count: int, rounds: int) -> list[Comparison]:
    home = settings.home
    names = (home / f"{number}" for number in itertools.count())
    home.mkdir()

    async def by_the_library(endpoint: str | None = ENDPOINT) -> float:
        given = lines(count)
        store = await WorkerStore.open(f"sqlite:///{next(names)}")
        await store.write(_subscribe)
        with Stopwatch() as watch:
            for batch in _batches(given):
                await store.enqueue([parse_event(line) for line in batch], endpoint)
        await store.close()
        return count / watch.seconds

    async def by_the_command() -> float:
        file = write_lines(next(names), count)
        command = [
            sys.executable,
            "-m",
            "resonant",
            "enqueue",
            str(file),
            "--endpoint",
            ENDPOINT,
            "--allow-unknown",
        ]
        environment = os.environ | {"RESONANT_DATABASE_URL": f"sqlite:///{next(names)}"}
        with Stopwatch() as watch:
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        return count / watch.seconds

    async def by_bare_sqlite() -> float:
        given = lines(count)
        with Stopwatch() as watch:
            _store_bare(next(names), given)
        return count / watch.seconds

    bare = "rows in one table"
    library = await in_turn(by_the_library, by_bare_sqlite, rounds)
    command = await in_turn(by_the_command, by_bare_sqlite, rounds)
    routed = await in_turn(partial(by_the_library, None), by_the_library, rounds)
    return [
        Comparison("parse_event and Store.enqueue", "events/s", *library, bare, ours_at_least=_AT_LEAST),
        Comparison(
            "`resonant enqueue FILE`, its start included", "events/s", *command, bare, ours_at_least=_AT_LEAST
        ),
        Comparison(
            f"the same, routed by {SUBSCRIPTIONS} subscriptions", "events/s", *routed, "a named endpoint"
        ),
    ]


def _subscribe(connection: Connection) -> None:
    """Subscribe one endpoint to the events, and others to events that nobody stores."""
    wanted = {ENDPOINT: {"filters": [{"not": {"exact": {"subject": "test"}}}]}}
    others = {f"other-{number}": {"types": [f"invoice.{number}.*"]} for number in range(1, SUBSCRIPTIONS)}
    for endpoint, terms in (wanted | others).items():
        add_subscription(connection, new_subscription(endpoint, terms), who="a bench", now=0.0)


def _store_bare(path: Path, given: Sequence[bytes]) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE events (line BLOB)")
        for batch in _batches(given):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO events VALUES (?)", ((line,) for line in batch))
            connection.execute("COMMIT")


def _batches(given: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [given[start : start + BATCH_LINES] for start in range(0, len(given), BATCH_LINES)]
