"""Fills a store with many rows at once, with SQL for both databases."""

import math
from collections.abc import Sequence

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from benches.surroundings import DATA_BYTES
from resonant.store.engine.database import open_database

# The numbers 1 to :count as n(i); most statements of a filling begin with this.
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"

# Values whose literals differ between the databases.
_BOUND = {"body": b"x" * DATA_BYTES, "infinity": math.inf}


async def fill(url: str, statements: Sequence[str], **values: float) -> None:
    """Run these statements in one transaction, in a store that has its tables.

    Args:
        url: the database's URL.
        statements: with ``:name`` for each value, ``:body`` for the body of an event, and ``:infinity``.
        values: numbers, by name.
    """
    database = await open_database(url)

    def run(connection: Connection) -> None:
        for statement in statements:
            for name, value in values.items():  # inserted as text: PostgreSQL needs the types of bound values
                statement = statement.replace(f":{name}", repr(value))  # noqa: PLW2901 - line by line
            bound = {name: value for name, value in _BOUND.items() if f":{name}" in statement}
            connection.execute(text(statement), bound)
        if connection.dialect.name == "postgresql":
            for table, key in (("events", "key"), ("deliveries", "id"), ("causes", "id")):
                sequence = f"pg_get_serial_sequence('resonant_{table}', '{key}')"
                connection.execute(
                    text(f"SELECT setval({sequence}, (SELECT max({key}) FROM resonant_{table}))")
                )

    await database.write(run)
    await database.close()
    if url.startswith("postgresql"):
        # Autovacuum does this within a minute after such a load.
        engine = create_async_engine(url.replace("postgresql", "postgresql+asyncpg", 1))
        async with engine.connect() as connection:
            autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await autocommit.execute(text("VACUUM ANALYZE"))
        await engine.dispose()
