"""Adds the tables of watched flow runs, acknowledged causes and announcements, and the processes of drains.

The announcements replace a column of the alerts. On PostgreSQL, it also leaves room in the pages of deliveries, for the updates of
their rows.
"""

import json

import sqlalchemy
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
CREATE TABLE resonant_announcements (
    id TEXT NOT NULL PRIMARY KEY, event TEXT NOT NULL, created_at {double} NOT NULL, sent_at {double}
);
ALTER TABLE resonant_drains ADD COLUMN process TEXT;
"""
_DOUBLE = {"sqlite": "DOUBLE", "postgresql": "DOUBLE PRECISION"}


def upgrade(connection: Connection) -> None:
    """Create the tables, with the privileges of the audit on PostgreSQL, and change the settings, which rewrites no row."""
    for statement in _TABLES.format(double=_DOUBLE[connection.dialect.name]).split(";")[:-1]:
        connection.exec_driver_sql(statement)
    _decide_again(connection)
    connection.exec_driver_sql("ALTER TABLE resonant_alerts DROP COLUMN unannounced")
    if connection.dialect.name == "postgresql":
        for table in ("resonant_run_watches", "resonant_acknowledged_causes", "resonant_announcements"):
            copy_privileges(connection, f"TABLE {table}", "resonant_audit")
        connection.exec_driver_sql("ALTER TABLE resonant_deliveries SET (fillfactor = 50)")


def _decide_again(connection: Connection) -> None:
    """Undo the decisions about alerts that were not announced: the next export makes and announces them again."""
    query = "SELECT condition, endpoint, unannounced FROM resonant_alerts WHERE unannounced IS NOT NULL"
    for condition, endpoint, text in connection.exec_driver_sql(query).all():
        crossing = json.loads(text)
        raised_at = None if crossing["what"] == "raised" else crossing["since"]
        update = (
            "UPDATE resonant_alerts SET raised_at = :at WHERE condition = :condition AND endpoint = :endpoint"
        )
        connection.execute(
            sqlalchemy.text(update), {"at": raised_at, "condition": condition, "endpoint": endpoint}
        )
