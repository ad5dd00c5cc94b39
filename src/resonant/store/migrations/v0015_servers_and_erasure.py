"""Gives each watch of flow runs the Prefect server that it belongs to: none until a server reports for it.

Adds the key by which erased events are recognised; the first erasure makes it.
"""

from sqlalchemy import Connection

revision = "0015"
down_revision = "0014"

# SQLite cannot change a primary key.
_WATCHES = {
    "sqlite": """
ALTER TABLE resonant_run_watches RENAME TO resonant_run_watches_0014;
CREATE TABLE resonant_run_watches (
    endpoint TEXT NOT NULL, flow TEXT NOT NULL, tag TEXT NOT NULL, server TEXT NOT NULL, watermark DOUBLE NOT NULL,
    created_at DOUBLE NOT NULL, PRIMARY KEY (endpoint, flow, tag, server)
);
INSERT INTO resonant_run_watches SELECT endpoint, flow, tag, '', watermark, created_at FROM resonant_run_watches_0014;
DROP TABLE resonant_run_watches_0014;
""",
    "postgresql": """
ALTER TABLE resonant_run_watches ADD COLUMN server TEXT NOT NULL DEFAULT '';
ALTER TABLE resonant_run_watches ALTER COLUMN server DROP DEFAULT;
ALTER TABLE resonant_run_watches DROP CONSTRAINT resonant_run_watches_pkey;
ALTER TABLE resonant_run_watches ADD PRIMARY KEY (endpoint, flow, tag, server);
""",
}


def upgrade(connection: Connection) -> None:
    """Change the table of watches, which has few rows, and that of the schema's version, which has one."""
    for statement in _WATCHES[connection.dialect.name].split(";")[:-1]:
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql("ALTER TABLE resonant_schema ADD COLUMN erasure_key TEXT")
