"""Gates, not endpoints, record a 410."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.drop_column("resonant_endpoints", "gone_at")


def downgrade() -> None:
    op.add_column("resonant_endpoints", sa.Column("gone_at", sa.Double(), nullable=True))
