"""Creates the schema, and brings it up to date."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from resonant.errors import StoreError, StoreTooNew
from resonant.store.engine.sql import require_connection
from resonant.store.migrations import baseline
from resonant.store.schema import create_tables

# That of the last migration.
SCHEMA_VERSION = baseline.revision
VERSION_TABLE = "resonant_schema"

_FOLDERS = [str(Path(__file__).parents[1] / "migrations")]
# An arbitrary number, the same in every process: the advisory lock that a migration holds on PostgreSQL.
_LOCK_KEY = 0x5E50_4A17


def read_schema_version(connection: Connection) -> str | None:
    """Return the version of the schema; None if the database has no tables of Resonant."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant


def migrate(connection: Connection) -> None:
    """Bring the schema up to date in the open transaction. Several processes may do so at once.

    Raises:
        StoreError: the schema is older than the baseline.
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
    check_version(version)
    if version == SCHEMA_VERSION:
        return
    # Alembic is slow to import, and only an upgrade needs it. Its commands would keep the connection in module globals, but
    # several threads may open a store at once.
    from alembic.migration import MigrationContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    scripts = ScriptDirectory(_FOLDERS[0], version_locations=_FOLDERS)
    for script in reversed([*scripts.iterate_revisions(SCHEMA_VERSION, version)]):
        script.module.upgrade(connection)
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    context.stamp(scripts, SCHEMA_VERSION)


def create_schema(connection: Connection) -> None:
    """Create Resonant's tables, or bring them up to date, inside the caller's transaction; the caller commits.

    Call it once at start-up, first in a transaction. Several processes may do so at the same time.

    Args:
        connection: with an ``AsyncConnection``, call ``await connection.run_sync(create_schema)``.

    Raises:
        StoreError: a version before the first release made the tables.
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


def check_version(version: str) -> None:
    """Check that this Resonant can use a schema, or upgrade it.

    Raises:
        StoreError: a version before the first release made the tables.
        StoreTooNew: a newer Resonant wrote the schema.
    """
    if version < baseline.revision:
        raise StoreError(
            f"the store's schema is version {version}, from before the first release: drain it with the version of Resonant that "
            "made it, then start a new store"
        )
    if version > SCHEMA_VERSION:
        raise StoreTooNew(
            f"the store's schema is version {version}, and this Resonant knows versions up to {SCHEMA_VERSION}: upgrade Resonant; "
            "a store cannot be downgraded, so an older Resonant needs a backup"
        )
