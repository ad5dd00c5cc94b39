"""Adds the failing types of a gate, and the index for claims by type."""

from sqlalchemy import Connection

revision = "0017"
down_revision = "0016"


def upgrade(connection: Connection) -> None:
    """Add the column and the index."""
    connection.exec_driver_sql("ALTER TABLE resonant_gates ADD COLUMN failing TEXT")
    connection.exec_driver_sql(
        "CREATE INDEX resonant_delivery_types ON resonant_deliveries (endpoint, event_type, available_at) "
        "WHERE available_at IS NOT NULL"
    )
