"""The process that opens a store first creates its tables, or runs the missing migrations."""

import asyncio
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from resonant import Event, create_schema, enqueue, open_store
from resonant.errors import StoreError, StoreRefused, StoreTooNew
from resonant.store import WorkerStore, schema
from resonant.store.audit import record_change
from resonant.store.engine.database import open_database
from resonant.store.engine.migrate import SCHEMA_VERSION, VERSION_TABLE, read_schema_version
from support.later_version import VERSION, become_later

TESTS = Path(__file__).parents[3]
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
TOO_NEW = (
    f"and this Resonant knows versions up to {SCHEMA_VERSION}: upgrade Resonant; "
    "a store cannot be downgraded, so an older Resonant needs a backup"
)
UNRELEASED = "from before the first release: drain it with the version of Resonant that made it, then start a new store"
EVENT = Event(id="new", type="t", source="/s", data=1)
# Opens a store as a later version, whose migration kills the process.
DYING = """
import asyncio, sys
import pytest
from resonant.store import WorkerStore
from support.later_version import become_later

become_later(pytest.MonkeyPatch())
asyncio.run(WorkerStore.open(sys.argv[1]))
"""


@pytest.fixture
def store_url(url):
    return url


@pytest.fixture
def filled(desk):
    """A store of this version with an event and a row of the audit."""
    desk.enqueue("evt_1")
    change = {"at": 1.0, "who": "ann", "action": "endpoint add", "selection": {"endpoint": "crm"}}
    desk.write(record_change, **change)
    return desk


@pytest.fixture
def later(monkeypatch):
    """Let this process become a later version."""
    return lambda: become_later(monkeypatch)


def table_names(connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def examples(connection) -> list[str] | None:
    """Return what the example migration wrote; None if it did not run."""
    if "example" not in {each["name"] for each in inspect(connection).get_columns("resonant_audit")}:
        return None
    return list(connection.exec_driver_sql("SELECT example FROM resonant_audit").scalars())


def test_a_fresh_database_gets_every_table_under_a_prefix_of_ours(desk):
    names = desk.read(table_names)
    assert names == {*schema.metadata.tables, VERSION_TABLE}
    assert all(name.startswith("resonant_") for name in names)
    assert desk.read(read_schema_version) == SCHEMA_VERSION


@pytest.mark.parametrize(
    ("version", "kind", "why"),
    [("9999", StoreTooNew, TOO_NEW), ("0008", StoreError, UNRELEASED), ("0017", StoreError, UNRELEASED)],
)
def test_a_store_of_an_unknown_version_is_refused_in_one_line_and_left_alone(
    desk, store_url, version, kind, why
):
    desk.execute(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")
    with pytest.raises(StoreError) as refusal:
        desk.run(WorkerStore.open(store_url))
    line = f"the store's schema is version {version}, {why}"
    assert (refusal.type, str(refusal.value)) == (kind, f"{desk.store}: {line}")
    for write in (create_schema, lambda connection: enqueue(connection, EVENT, "crm")):
        with pytest.raises(StoreError) as refusal:
            desk.write(write)
        assert (refusal.type, str(refusal.value)) == (kind, line)
    assert desk.read(read_schema_version) == version


async def test_a_migration_that_fails_leaves_nothing_behind(url, monkeypatch):
    def half(connection):
        schema.metadata.create_all(connection)
        raise KeyError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("resonant.store.engine.database.migrate", half)
        with pytest.raises(KeyError):
            await WorkerStore.open(url)
    async with open_store(url) as store:
        assert await store.read(table_names) == {*schema.metadata.tables, VERSION_TABLE}


async def opening(url, event):
    async with open_store(url) as store:
        await store.enqueue(event, "orders")


async def creating(url, event):
    """Create the schema as a producer does, which has an engine of its own."""
    parsed = make_url(url)
    options = {"timeout": 60} if parsed.drivername == "sqlite" else {}
    engine = create_async_engine(parsed.set(drivername=DRIVERS[parsed.drivername]), connect_args=options)
    async with engine.begin() as connection:
        await connection.run_sync(create_schema)
        await connection.run_sync(enqueue, event, "orders")
    await engine.dispose()


def all_at_once(how, url, count=4):
    """Store an event with each of these connections, which begin together; none may fail."""
    barrier = Barrier(count)

    def run(number):
        barrier.wait()
        asyncio.run(how(url, Event(id=f"new_{number}", type="t", source="/s", data=1)))

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(run, range(count)))


@pytest.mark.parametrize("how", [opening, creating])
def test_connections_that_find_no_tables_at_once_all_succeed(url, open_desk, how):
    all_at_once(how, url)
    desk = open_desk(url)
    assert (desk.status().accepted, desk.status().balanced) == (4, True)
    assert desk.read(read_schema_version) == SCHEMA_VERSION


def test_they_do_not_depend_on_the_databases_isolation(postgresql, postgresql_url):
    """A snapshot from before the wait for the others' migration would not show its tables."""
    postgresql.execute("ALTER DATABASE test SET default_transaction_isolation = 'repeatable read'")
    try:
        all_at_once(opening, postgresql_url)
    finally:
        postgresql.execute("ALTER DATABASE test RESET default_transaction_isolation")


@pytest.mark.parametrize("how", [opening, creating])
def test_connections_of_a_later_version_run_its_migration_once(filled, url, how, later):
    later()
    all_at_once(how, url)
    assert filled.read(examples) == ["ann"]
    assert filled.read(read_schema_version) == VERSION
    assert (filled.status().accepted, filled.status().balanced) == (5, True)


def test_a_migrated_store_is_refused_by_the_earlier_version(filled, url, monkeypatch):
    with monkeypatch.context() as patch:
        become_later(patch)
        filled.run(opening(url, Event(id="new", type="t", source="/s", data=1)))
    with pytest.raises(StoreTooNew, match=TOO_NEW):
        filled.run(WorkerStore.open(url))


def test_a_reader_that_may_not_migrate_leaves_the_store_alone(filled, url, later):
    later()
    with pytest.raises(StoreError, match="older version"):
        filled.run(open_database(url, may_migrate=False))
    assert filled.read(examples) is None


def test_a_process_that_is_killed_in_a_migration_changes_nothing(filled, url, later):
    environment = {**os.environ, "DIES_IN_MIGRATION": "1", "PYTHONPATH": str(TESTS)}
    died = subprocess.run(
        [sys.executable, "-c", DYING, url], env=environment, check=False, capture_output=True, text=True
    )
    assert (died.returncode, died.stderr) == (-signal.SIGKILL, "")
    assert filled.read(examples) is None
    assert filled.read(read_schema_version) == SCHEMA_VERSION
    later()
    filled.run(opening(url, Event(id="new", type="t", source="/s", data=1)))
    assert filled.read(examples) == ["ann"]
    assert filled.read(lambda each: set(each.scalars(select(schema.events.c.id)))) == {"evt_1", "new"}


def test_a_user_who_does_not_own_the_tables_is_refused_in_one_line(
    postgresql, postgresql_url, open_desk, later
):
    desk = open_desk(postgresql_url)
    if not postgresql.execute("SELECT FROM pg_roles WHERE rolname = 'producer'"):
        postgresql.execute("CREATE ROLE producer LOGIN")
    desk.execute("GRANT ALL ON SCHEMA public TO producer")
    desk.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO producer")
    later()
    with pytest.raises(StoreRefused, match="upgrade the store as the owner of its tables"):
        desk.run(WorkerStore.open(postgresql.url("test", user="producer")))
    assert desk.read(examples) is None
