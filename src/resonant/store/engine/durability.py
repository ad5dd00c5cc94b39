"""Finds settings of a PostgreSQL server with which a crash may lose what it has committed.

Resonant overrides ``synchronous_commit=off`` in each transaction. It cannot change these: they are the server's.
"""

from sqlalchemy import Connection, text

# ALTER ROLE ... SET resonant.may_lose_data = 'on' accepts the risk, for a server of tests.
_UNSAFE = text("""SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'
    AND coalesce(current_setting('resonant.may_lose_data', true), '') <> 'on' ORDER BY name""")


def durability_problem(connection: Connection) -> str | None:
    """Return on one line which settings of the server are unsafe, and the remedy; None if all are safe."""
    if connection.dialect.name != "postgresql":
        return None
    if not (names := connection.execute(_UNSAFE).scalars().all()):
        return None
    return (
        f"PostgreSQL runs with {' and '.join(f'{name}=off' for name in names)}: a crash of its machine may lose or damage stored "
        "events; set them to on"
    )
