"""The process that opens a store first creates its tables. ``test_upgrade`` has the migrations."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import inspect
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from benches.old_store import DRIVERS
from resonant import Event, create_schema, enqueue, open_store
from resonant.errors import StoreError, StoreTooNew
from resonant.store import WorkerStore, schema
from resonant.store.engine.migrate import SCHEMA_VERSION, VERSION_TABLE, read_schema_version


@pytest.fixture
def store_url(url):
    return url


def table_names(connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def test_a_fresh_database_gets_every_table_under_a_prefix_of_ours(desk):
    names = desk.read(table_names)
    assert names == {*schema.metadata.tables, VERSION_TABLE}
    assert all(name.startswith("resonant_") for name in names)
    assert desk.read(read_schema_version) == SCHEMA_VERSION


@pytest.mark.parametrize(
    ("version", "kind", "why"),
    [
        (
            "0099",
            StoreTooNew,
            (
                f"its schema is version 0099, and this Resonant knows versions up to {SCHEMA_VERSION}: upgrade Resonant; "
                "a store cannot be downgraded, so an older Resonant needs a backup"
            ),
        ),
        (
            "0007",
            StoreError,
            "its schema is version 0007, from before Resonant 0.1.0: open it with Resonant 0.1.0 first",
        ),
    ],
    ids=["newer", "before 0.1.0"],
)
def test_a_database_of_an_unknown_version_is_refused_and_left_alone(desk, store_url, version, kind, why):
    desk.execute(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")
    with pytest.raises(StoreError) as refusal:
        desk.run(WorkerStore.open(store_url))
    assert (refusal.type, str(refusal.value)) == (kind, f"{desk.store}: {why}")
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
        asyncio.run(how(url, Event(id=f"evt_{number}", type="t", source="/s", data=1)))

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
