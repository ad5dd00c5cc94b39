"""The migrations since Resonant 0.1.0, for Alembic. ``schema`` has the tables after the last one."""
