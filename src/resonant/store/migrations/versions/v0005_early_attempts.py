"""Attempts record whether they were early and therefore not charged."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("resonant_attempts", sa.Column("early", sa.Boolean(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("resonant_attempts", "early")
