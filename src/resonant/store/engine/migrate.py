"""Brings the schema up to date."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect, text

from resonant.errors import StoreError, StoreTooNew
from resonant.store.engine.sql import require_connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection

SCHEMA_VERSION = "0010"
VERSION_TABLE = "resonant_schema"
MIGRATIONS = Path(__file__).parents[1] / "migrations"

# An arbitrary number, the same in every process: the advisory lock that a migration holds on PostgreSQL.
_LOCK_KEY = 0x5E50_4A17
# Alembic keeps its state in module globals.
_one_at_a_time = threading.Lock()


def read_schema_version(connection: Connection) -> str | None:
    """Return the version of the schema; None if the database has no tables of Resonant."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant


def migrate(connection: Connection) -> None:
    """Bring the schema up to date in the open transaction. Several processes may do so at once.

    Raises:
        StoreError: the schema is from before Resonant 0.1.0.
        StoreTooNew: a newer Resonant wrote the schema.
    """
    # Imported here: Alembic is slow to import, and an up-to-date database does not need it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    version = read_schema_version(connection)
    if version is not None and version not in known:
        if version < SCHEMA_VERSION:
            raise StoreError(
                f"its schema is version {version}, from before Resonant 0.1.0: open it with Resonant 0.1.0 first"
            )
        raise StoreTooNew(
            f"its schema is version {version}, and this Resonant knows versions up to {SCHEMA_VERSION}: upgrade Resonant"
        )
    command.upgrade(config, "head")


def create_schema(connection: Connection) -> None:
    """Create Resonant's tables, or bring them up to date, inside the caller's transaction; the caller commits.

    Call it once at start-up, first in a transaction. Several processes may do so at the same time.

    Args:
        connection: with an ``AsyncConnection``, call ``await connection.run_sync(create_schema)``.

    Raises:
        StoreError: the schema is from before Resonant 0.1.0.
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
    with _one_at_a_time:
        migrate(connection)


@asynccontextmanager
async def alone_in_this_process() -> AsyncIterator[None]:
    """Hold the process-wide migration lock, across threads and event loops."""
    while not _one_at_a_time.acquire(blocking=False):  # noqa: ASYNC110 - an asyncio.Event supports one event loop
        await asyncio.sleep(0.02)
    try:
        yield
    finally:
        _one_at_a_time.release()
