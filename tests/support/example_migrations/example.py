"""Adds a column to the audit, and fills it. A process that is told to dies between the two."""

import os
import signal

from resonant.store.migrations import baseline

revision = f"{int(baseline.revision) + 1:04}"
down_revision = baseline.revision


def upgrade(connection):
    connection.exec_driver_sql("ALTER TABLE resonant_audit ADD COLUMN example TEXT")
    if "DIES_IN_MIGRATION" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    connection.exec_driver_sql("UPDATE resonant_audit SET example = who")
