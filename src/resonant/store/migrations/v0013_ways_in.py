"""Adds the tables of subscriptions and tokens, and the column ``replayed_to`` of dead letters."""

from sqlalchemy import Connection

from resonant.store.migrations.v0012_sources_apart import copy_privileges, grant_select

revision = "0013"
down_revision = "0012"

_TABLES = """
CREATE TABLE resonant_subscriptions (
    id TEXT NOT NULL PRIMARY KEY, endpoint TEXT NOT NULL, types TEXT NOT NULL, source TEXT, filters TEXT NOT NULL,
    created_at {double} NOT NULL
);
CREATE TABLE resonant_routing (id INTEGER NOT NULL PRIMARY KEY, version BIGINT NOT NULL);
CREATE TABLE resonant_tokens (
    name TEXT NOT NULL PRIMARY KEY, digest TEXT NOT NULL UNIQUE, source TEXT, type TEXT, endpoint TEXT, rate {double},
    can_read BOOLEAN NOT NULL, created_at {double} NOT NULL, last_used_at {double}, revoked_at {double}
);
ALTER TABLE resonant_deliveries ADD COLUMN replayed_to TEXT;
"""
_DOUBLE = {"sqlite": "DOUBLE", "postgresql": "DOUBLE PRECISION"}


def upgrade(connection: Connection) -> None:
    """Create the tables, and add the column, which changes no row."""
    for statement in _TABLES.format(double=_DOUBLE[connection.dialect.name]).split(";")[:-1]:
        connection.exec_driver_sql(statement)
    if connection.dialect.name == "postgresql":
        for table in ("resonant_subscriptions", "resonant_routing", "resonant_tokens"):
            copy_privileges(connection, f"TABLE {table}", "resonant_audit")
        # Producers read them to route their events.
        for table in ("resonant_subscriptions", "resonant_routing"):
            grant_select(connection, table, "resonant_events")
