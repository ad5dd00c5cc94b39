"""``import resonant`` gives the public names, with their types, and loads nothing heavy."""

import re
import sqlite3
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, select

import resonant
from resonant import ConflictingEvent, Event, create_schema, enqueue, errors, open_store
from resonant.store import schema
from resonant.store.engine.migrate import SCHEMA_VERSION, read_schema_version

PROJECT = Path(__file__).parents[2]
PAID = Event(type="order.paid", source="/shop", data={"total": 10}, id="evt_1")


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# --- the names --------------------------------------------------------------------------------------------------


def test_every_public_name_is_the_object_of_its_module_and_dir_lists_it():
    assert dir(resonant) == sorted(resonant.__all__)
    for name in resonant.__all__:
        public = getattr(resonant, name)
        home = import_module(public.__module__)
        if name != "classifier":  # an object; its class is defined elsewhere
            assert getattr(home, name) is public


def test_every_error_is_public_unless_only_commands_and_flows_raise_it():
    of_commands = {"ArchiveError", "BootstrapFailed", "EmptySelection", "InitError", "InvalidSubscription"}
    of_commands |= {"PrefectChanged", "ServerError", "ServerGone", "SettingsError", "UnknownPolicy"}
    of_the_store = {"StillLocked", "TryAgain"}  # it repeats the operation
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined - set(resonant.__all__) == of_commands | of_the_store


def test_every_error_for_users_is_defined_in_one_module():
    names = "|".join(name for name, value in vars(errors).items() if isinstance(value, type))
    definition = re.compile(rf"^class (\w+)\([^)\n]*\b(?:{names})\b", re.MULTILINE)
    folders = (PROJECT / folder for folder in ("src/resonant", "flows", "tasks", "blocks", "deployments"))
    files = [path for folder in folders for path in folder.rglob("*.py") if path.name != "errors.py"]
    assert len(files) > 100
    assert [
        found for path in files for found in definition.findall(path.read_text()) if found[0] != "_"
    ] == []


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="module 'resonant' has no attribute 'enqeue'"):
        resonant.enqeue  # noqa: B018
    with pytest.raises(ImportError):
        from resonant import enqeue  # noqa: F401


@pytest.mark.parametrize(
    ("code", "others"),
    [
        ("import resonant", {"httpx", "sqlalchemy", "pydantic", "resonant.store", "resonant.events"}),
        ("import resonant.testing.fixtures", {"httpx", "sqlalchemy", "pydantic", "trustme"}),
        ("from resonant import *", set()),
    ],
)
def test_an_import_loads_nothing_heavy(code, others):
    loaded = in_a_new_process(f"import sys; {code}; print(*sys.modules)")
    assert not {"prefect", "pandas", "matplotlib", "aiohttp", *others} & set(loaded)


# --- create_schema and enqueue in a program's own database ------------------------------------------------------


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    yield engine
    engine.dispose()


async def test_a_synchronous_program_creates_the_tables_once_and_stores_events(engine, tmp_path):
    for known in (False, True):  # the second time, the tables are up to date
        with engine.begin() as connection:
            create_schema(connection)
            result = enqueue(connection, PAID, "billing", now=1_700_000_000.0)
        assert (result.accepted, result.known) == (not known, known)
    with engine.begin() as connection:
        enqueue(connection, PAID, "crm")
        accepted_at = select(schema.deliveries.c.endpoint, schema.deliveries.c.accepted_at)
        rows = dict(connection.execute(accepted_at).all())
        auto_vacuum = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar()
    assert rows["billing"] == 1_700_000_000.0
    assert rows["crm"] > 1_700_000_000.0, "by the wall clock"
    assert auto_vacuum == 2, "purged space returns to the disk, as in a store of its own"
    async with open_store(f"sqlite:///{tmp_path / 'shop.db'}") as store:
        assert (await store.status()).accepted == 2


def test_create_schema_makes_all_tables_or_none(engine):
    with engine.connect() as connection:
        create_schema(connection)
        assert read_schema_version(connection) == SCHEMA_VERSION
        connection.rollback()
    assert inspect(engine).get_table_names() == []


def test_one_event_is_refused_as_one_of_several_is(engine):
    other = Event(type="order.paid", source="/shop", data={"total": 11}, id="evt_1")
    with engine.begin() as connection:
        create_schema(connection)
        enqueue(connection, PAID, "billing")
        with pytest.raises(ConflictingEvent, match="evt_1"):
            enqueue(connection, other, "billing")


@pytest.mark.parametrize("function", [create_schema, lambda given: enqueue(given, PAID, "billing")])
def test_another_kind_of_connection_is_refused_with_the_next_step(function):
    connection = sqlite3.connect(":memory:")
    with pytest.raises(
        TypeError, match=r"must be an SQLAlchemy Connection, not sqlite3\.Connection .*run_sync"
    ):
        function(connection)
    connection.close()
