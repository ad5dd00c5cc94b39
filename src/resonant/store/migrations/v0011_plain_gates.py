"""A gate's ``paced_at`` repeated other columns, and ``helpless_until`` gets a plain name."""

from sqlalchemy import Connection

revision = "0011"
down_revision = "0010"


def upgrade(connection: Connection) -> None:
    """Change the columns of the gates."""
    connection.exec_driver_sql("ALTER TABLE resonant_gates DROP COLUMN paced_at")
    connection.exec_driver_sql("ALTER TABLE resonant_gates RENAME COLUMN helpless_until TO lenient_until")
