"""Fixtures of the store's tests: an open store with a clock, and the URLs of databases."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from resonant.store import Store, WorkerStore
from resonant.testing import FixedClock
from support.desk import START, Desk

# Only `make test-all` runs these queries on PostgreSQL too.
_QUERIES = (
    "dead_letters/test_cancel.py",
    "dead_letters/test_triage.py",
    "lab/test_history.py",
    "metrics/test_alerts.py",
    "metrics/test_measure.py",
    "store/views/test_dead_letters.py",
    "store/views/test_reads.py",
    "store/views/test_selection.py",
    "store/counts/test_sketches.py",
    "store/views/test_unfinished.py",
)
LEASE_SECONDS = 60.0


def pytest_collection_modifyitems(items):
    queries = {Path(__file__).parent / name for name in _QUERIES}
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path in queries and parameters.get("store_url") == "postgresql":
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def clock():
    return FixedClock(START)


@pytest.fixture
def open_desk(clock):
    """Open stores; all of them belong to one loop and read one clock."""
    with asyncio.Runner() as runner:
        opened: list[Store] = []

        def open_(url: str, **options: Any) -> Desk:
            store = runner.run(WorkerStore.open(url, clock=clock, lease_seconds=LEASE_SECONDS, **options))
            opened.append(store)
            return Desk(store, clock, runner)

        yield open_
        for store in opened:
            runner.run(store.close())


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """An SQLite file with the tables of a store: copying it is quicker than migrating an empty one."""
    path = tmp_path_factory.mktemp("template") / "resonant.db"
    asyncio.run(_create_store(f"sqlite:///{path}"))
    return path


async def _create_store(url: str) -> None:
    await (await WorkerStore.open(url)).close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request, tmp_path):
    """The URL of a store without deliveries, of one kind of database after the other."""
    if request.param == "sqlite":
        template = request.getfixturevalue("sqlite_template")
        return f"sqlite:///{shutil.copy(template, tmp_path)}"
    server = request.getfixturevalue("postgresql")
    if not server.empty_store("store"):
        asyncio.run(_create_store(server.empty_database("store")))
    return server.url("store")


@pytest.fixture
def sqlite_desk(open_desk, sqlite_template, tmp_path):
    """For tests of what is the same on both databases."""
    return open_desk(f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")


@pytest.fixture
def desk(open_desk, store_url):
    return open_desk(store_url)
