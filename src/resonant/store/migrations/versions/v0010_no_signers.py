"""The old signing secret also signs until a fixed time, so runs no longer report which rotation they use."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.drop_table("resonant_signers")
