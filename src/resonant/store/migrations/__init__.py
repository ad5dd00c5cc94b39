"""The migrations since the baseline, for Alembic. ``schema`` has the tables after the last one."""
