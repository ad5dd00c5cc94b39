"""Adds a column for the clock differences that runs report."""

from sqlalchemy import Connection

revision = "0016"
down_revision = "0015"

_DOUBLE = {"sqlite": "DOUBLE", "postgresql": "DOUBLE PRECISION"}


def upgrade(connection: Connection) -> None:
    """Add the column, which changes no row."""
    double = _DOUBLE[connection.dialect.name]
    connection.exec_driver_sql(f"ALTER TABLE resonant_drains ADD COLUMN clock_ahead {double}")
