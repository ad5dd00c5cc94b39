"""Alembic's entry: the connection and its transaction come from ``store.engine.migrate``."""

from alembic import context

from resonant.store.engine.migrate import VERSION_TABLE
from resonant.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
