"""``python -m benches upgrade [--events N]``: upgrades a store of 0.1.0 on each database while a producer stores events."""

import argparse
import asyncio
import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from benches.comparing import say
from benches.old_store import in_database, make_old_store
from benches.processes import python
from benches.surroundings import Missing, postgresql
from benches.tables import number, print_table
from resonant.store import open_store

EVENTS = 100_000
_MEGABYTE = 1_000_000


class _Sizes(NamedTuple):
    """The size of a store, and of its deliveries with their indexes, in bytes."""

    store: int
    deliveries: int


class _Upgrade(NamedTuple):
    database: str
    seconds: float
    waits: list[float]
    before: _Sizes
    after: _Sizes


def main(arguments: Sequence[str]) -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser("python -m benches upgrade", description="Upgrade a store of 0.1.0.")
    parser.add_argument("--events", type=int, metavar="N", default=EVENTS, help="events in the store")
    count = parser.parse_args(arguments).events
    found = []
    with tempfile.TemporaryDirectory(prefix="resonant-bench-") as folder:
        found.append(_measure("SQLite", f"sqlite:///{folder}/resonant.db", count))
    try:
        with postgresql() as server:
            found.append(_measure("PostgreSQL", server.url, count))
    except Missing as error:
        say(f"  without PostgreSQL: {error}")
    print_table(
        (
            "database",
            "events",
            "seconds",
            "events/s",
            "producer: transactions",
            "median wait, s",
            "longest wait, s",
            "store, MB",
            "bytes per delivery",
        ),
        {"events", "seconds", "events/s", "producer: transactions", "median wait, s", "longest wait, s"},
        [_row(each, count) for each in found],
    )
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _row(each: _Upgrade, count: int) -> list[str]:
    waits = sorted(each.waits)
    return [
        each.database,
        f"{count:,}",
        f"{each.seconds:.1f}",
        number(count / each.seconds),
        f"{len(waits):,}",
        f"{waits[len(waits) // 2]:.3f}",
        f"{waits[-1]:.2f}",
        f"{each.before.store / _MEGABYTE:,.0f} to {each.after.store / _MEGABYTE:,.0f}",
        f"{each.before.deliveries / count:.0f} to {each.after.deliveries / count:.0f}",
    ]


def _measure(database: str, url: str, count: int) -> _Upgrade:
    say(f"  {database}: filling")
    asyncio.run(in_database(url, lambda connection: make_old_store(connection, count)))
    before = asyncio.run(in_database(url, _sizes))
    say(f"  {database}: upgrading")
    with _process("produce", url, str(count)) as producer, _process("open", url) as upgrade:
        lines: list[str] = []
        reading = threading.Thread(target=lambda: lines.extend(producer.stdout or ()))
        reading.start()
        _go(upgrade)
        began_at = time.monotonic()
        _go(producer)
        if upgrade.wait():
            raise RuntimeError("the upgrade failed")
        seconds = time.monotonic() - began_at
        if producer.stdin:
            producer.stdin.close()
        reading.join()
    new = len(lines)
    status = asyncio.run(_status(url))
    if status != (count + new, True):
        raise RuntimeError(f"{count:,} events and {new:,} new ones became {status}")
    return _Upgrade(
        database,
        seconds,
        [float(line.split()[1]) for line in lines],
        before,
        asyncio.run(in_database(url, _sizes)),
    )


async def _status(url: str) -> tuple[int, bool]:
    async with open_store(url) as store:
        status = await store.status()
    return status.accepted, status.balanced


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = python("benches.upgrade_processes", *arguments)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{command} does not start")
        yield process


def _go(process: subprocess.Popen[str]) -> None:
    if process.stdin:
        process.stdin.write("go\n")
        process.stdin.flush()


def _sizes(connection: Connection) -> _Sizes:
    if connection.dialect.name == "postgresql":
        whole = "SELECT pg_database_size(current_database())"
        deliveries = "SELECT pg_total_relation_size('resonant_deliveries')"
    else:
        whole = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        deliveries = """SELECT sum(pgsize) FROM dbstat WHERE aggregate = true
            AND name IN (SELECT name FROM sqlite_master WHERE tbl_name = 'resonant_deliveries')"""
    return _Sizes(*(int(connection.exec_driver_sql(query).scalar_one()) for query in (whole, deliveries)))
