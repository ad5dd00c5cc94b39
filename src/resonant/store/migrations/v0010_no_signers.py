"""The old signing secret also signs until a fixed time, so runs no longer report which rotation they use.

A gate's ``paced_at`` repeated what its other columns say, and ``helpless_until`` gets a plain name.
"""

from sqlalchemy import Connection

revision = "0010"
down_revision = "0009"


def upgrade(connection: Connection) -> None:
    """Drop the table of the runs that had the new secret, and change the columns of the gates."""
    connection.exec_driver_sql("DROP TABLE resonant_signers")
    connection.exec_driver_sql("ALTER TABLE resonant_gates DROP COLUMN paced_at")
    connection.exec_driver_sql("ALTER TABLE resonant_gates RENAME COLUMN helpless_until TO lenient_until")
