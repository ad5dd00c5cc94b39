"""The old signing secret also signs until a fixed time, so runs no longer report which rotation they use."""

from sqlalchemy import Connection

revision = "0010"
down_revision = "0009"


def upgrade(connection: Connection) -> None:
    """Drop the table of the runs that had the new secret."""
    connection.exec_driver_sql("DROP TABLE resonant_signers")
