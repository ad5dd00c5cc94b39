"""Creates the schema, and brings it up to date. ``moving`` finishes an upgrade that moves rows."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from resonant.errors import StoreError, StoreTooNew
from resonant.store.engine.sql import require_connection
from resonant.store.engine.table_locks import run_between_others
from resonant.store.migrations import v0012_sources_apart as v0012
from resonant.store.schema import create_tables

SCHEMA_VERSION = "0017"
VERSION_TABLE = "resonant_schema"
_MIGRATIONS = str(Path(__file__).parents[1] / "migrations")

_RELEASE_0_1_0 = "0008"
# An arbitrary number, the same in every process: the advisory lock that a migration holds on PostgreSQL.
_LOCK_KEY = 0x5E50_4A17
_IS_CURRENT = "resonant_is_current"
_SET_PATH = "SELECT set_config('search_path', :path, true)"


def read_schema_version(connection: Connection) -> str | None:
    """Return the version of the schema; None if the database has no tables of Resonant."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant


def is_moving(connection: Connection) -> bool:
    """Return whether an upgrade of the current schema is not finished: old tables still have rows."""
    return v0012.is_moving(connection)


def migrate(connection: Connection) -> None:
    """Bring the schema up to date in the open transaction. Several processes may do so at once.

    Rows of large tables may stay in old tables, until ``finish_moving``.

    Raises:
        StoreError: the schema is from before Resonant 0.1.0, or something of the user depends on a table that is replaced.
        StoreTooNew: a newer Resonant wrote the schema.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    version = read_schema_version(connection)
    if version is None:
        create_tables(connection)
        connection.exec_driver_sql(
            f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY, erasure_key TEXT)"
        )
        connection.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES ('{SCHEMA_VERSION}')")  # noqa: S608 - constants
        return
    _check(version)
    if version == SCHEMA_VERSION:
        return
    if is_postgresql := connection.dialect.name == "postgresql":
        v0012.keep_vacuum_away(connection)
        run_between_others(connection, v0012.lock_tables)
        path = _use_schema_of_store(connection)
    # Alembic is slow to import, and only an upgrade needs it. Its commands would keep the connection in module globals, but
    # several threads may open a store at once.
    from alembic.migration import MigrationContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    scripts = ScriptDirectory(_MIGRATIONS, version_locations=[_MIGRATIONS])
    for script in reversed([*scripts.iterate_revisions(SCHEMA_VERSION, version)]):
        script.module.upgrade(connection)
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    context.stamp(scripts, SCHEMA_VERSION)
    if is_postgresql:
        connection.execute(text(_SET_PATH), {"path": path})


def create_schema(connection: Connection) -> None:
    """Create Resonant's tables, or bring them up to date, inside the caller's transaction; the caller commits.

    Call it once at start-up, first in a transaction. Several processes may do so at the same time. It is quick for large
    tables too: a process that opens the store later moves their rows, and ``enqueue`` works meanwhile.

    Args:
        connection: with an ``AsyncConnection``, call ``await connection.run_sync(create_schema)``.

    Raises:
        StoreError: the schema is from before Resonant 0.1.0, or something of the user depends on a table that is replaced.
        StoreTooNew: a newer Resonant wrote the schema.
        TypeError: ``connection`` is not an SQLAlchemy ``Connection``.
    """
    require_connection(connection)
    if read_schema_version(connection) == SCHEMA_VERSION:
        return
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and not driver.in_transaction:
        # Python's driver does not begin a transaction for schema changes.
        connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    migrate(connection)


def move_known(connection: Connection, event_ids: Iterable[str]) -> None:
    """During an upgrade, move the old events with these ids, so that a producer finds them in the tables.

    Raises:
        StoreError: the tables are of another version.
    """
    if connection.info.get(_IS_CURRENT):
        return
    version = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar_one()  # noqa: S608 - a constant
    _check(version, "the store's")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"the store's schema is version {version}, and this Resonant needs {SCHEMA_VERSION}: call create_schema"
        )
    if not is_moving(connection):
        connection.info[_IS_CURRENT] = True
    elif v0012.keep_old_tables(connection):
        v0012.move_known(connection, event_ids)


def _use_schema_of_store(connection: Connection) -> str:
    """Let new tables be created in the schema of the old ones, on PostgreSQL; return the search path to return to."""
    path: str = connection.exec_driver_sql("SELECT current_setting('search_path')").scalar_one()
    schema = f"""SELECT quote_ident(nspname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = to_regclass('{VERSION_TABLE}')"""  # noqa: S608 - a constant
    connection.execute(text(_SET_PATH), {"path": connection.exec_driver_sql(schema).scalar_one()})
    return path


def _check(version: str, whose: str = "its") -> None:
    """Check that this Resonant can use a schema, or upgrade it."""
    if version < _RELEASE_0_1_0:
        raise StoreError(
            f"{whose} schema is version {version}, from before Resonant 0.1.0: open it with Resonant 0.1.0 first"
        )
    if version > SCHEMA_VERSION:
        raise StoreTooNew(
            f"{whose} schema is version {version}, and this Resonant knows versions up to {SCHEMA_VERSION}: upgrade Resonant; "
            "a store cannot be downgraded, so an older Resonant needs a backup"
        )
