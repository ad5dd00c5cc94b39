"""Adds the tables of watched flow runs, acknowledged causes and announcements."""

from sqlalchemy import Connection

from resonant.store.migrations.v0012_sources_apart import copy_privileges

revision = "0014"
down_revision = "0013"

_TABLES = """
CREATE TABLE resonant_run_watches (
    endpoint TEXT NOT NULL, flow TEXT NOT NULL, tag TEXT NOT NULL, watermark {double} NOT NULL, created_at {double} NOT NULL,
    PRIMARY KEY (endpoint, flow, tag)
);
CREATE TABLE resonant_acknowledged_causes (
    cause TEXT NOT NULL PRIMARY KEY, acknowledged_at {double} NOT NULL, acknowledged_by TEXT NOT NULL, note TEXT
);
CREATE TABLE resonant_announcements (id TEXT NOT NULL PRIMARY KEY, event TEXT NOT NULL, created_at {double} NOT NULL);
"""
_DOUBLE = {"sqlite": "DOUBLE", "postgresql": "DOUBLE PRECISION"}


def upgrade(connection: Connection) -> None:
    """Create the tables, with the privileges of the audit on PostgreSQL."""
    for statement in _TABLES.format(double=_DOUBLE[connection.dialect.name]).split(";")[:-1]:
        connection.exec_driver_sql(statement)
    if connection.dialect.name == "postgresql":
        for table in ("resonant_run_watches", "resonant_acknowledged_causes", "resonant_announcements"):
            copy_privileges(connection, f"TABLE {table}", "resonant_audit")
