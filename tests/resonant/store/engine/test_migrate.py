"""The process that opens a store first creates its tables. ``test_upgrade`` has the migrations."""

import subprocess
import sys

import pytest
from sqlalchemy import inspect, text

from resonant.errors import StoreError, StoreTooNew
from resonant.store import WorkerStore, schema
from resonant.store.engine.migrate import SCHEMA_VERSION, VERSION_TABLE, read_schema_version


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request):
    """The URL of a database without tables, of one kind after the other."""
    return request.getfixturevalue(f"{request.param}_url")


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
    desk.write(
        lambda connection: (
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")) and None
        )
    )
    with pytest.raises(StoreError) as refusal:
        desk.run(WorkerStore.open(store_url))
    assert (refusal.type, str(refusal.value)) == (kind, f"{desk.store}: {why}")
    assert desk.read(read_schema_version) == version


async def test_a_migration_that_fails_leaves_nothing_behind(store_url, monkeypatch):
    import resonant.store.engine.database

    def half(connection):
        schema.metadata.create_all(connection)
        raise KeyError("power cut")

    async def open_in_vain_and_again():
        with monkeypatch.context() as patch:
            patch.setattr(resonant.store.engine.database, "migrate", half)
            with pytest.raises(KeyError):
                await WorkerStore.open(store_url)
        store = await WorkerStore.open(store_url)
        try:
            return await store.read(table_names)
        finally:
            await store.close()

    assert await open_in_vain_and_again() == {*schema.metadata.tables, VERSION_TABLE}


def all_at_once(how, store_url, count=4):
    """Run processes, which begin together after their imports; none may fail."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ENQUEUE, how, store_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    failures = [process.communicate(timeout=60)[1] for process in processes]
    assert failures == [""] * count


# Opens the store, or creates the schema as a producer does, and stores an event.
_ENQUEUE = """
import asyncio, os, sys
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from resonant import Event, create_schema, enqueue, open_store

event = Event(id=f"evt_{os.getpid()}", type="t", source="/s", data=1)

async def opening(url):
    async with open_store(url) as store:
        await store.enqueue(event, "orders")

async def creating(url):
    url = make_url(url)
    if url.drivername == "sqlite":
        driver, options = "sqlite+aiosqlite", {"timeout": 60}
    else:
        driver, options = "postgresql+asyncpg", {}
    engine = create_async_engine(url.set(drivername=driver), connect_args=options)
    async with engine.begin() as connection:
        await connection.run_sync(create_schema)
        await connection.run_sync(enqueue, event, "orders")
    await engine.dispose()

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(globals()[sys.argv[1]](sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["opening", "creating"])
def test_processes_that_find_no_tables_at_once_all_succeed(store_url, open_desk, how):
    all_at_once(how, store_url)
    desk = open_desk(store_url)
    assert (desk.status().accepted, desk.status().balanced) == (4, True)
    assert desk.read(read_schema_version) == SCHEMA_VERSION


@pytest.mark.slow
def test_they_do_not_depend_on_the_databases_isolation(postgresql, postgresql_url):
    """A snapshot from before the wait for the others' migration would not show its tables."""
    postgresql.execute("ALTER DATABASE test SET default_transaction_isolation = 'repeatable read'")
    try:
        all_at_once("opening", postgresql_url)
    finally:
        postgresql.execute("ALTER DATABASE test RESET default_transaction_isolation")
