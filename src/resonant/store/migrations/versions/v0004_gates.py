"""The gate of each endpoint, and the end of a delivery's own backoff if a gate releases it earlier."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "resonant_gates",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("failing_since", sa.Double(), nullable=True),
        sa.Column("probe_at", sa.Double(), nullable=True),
        sa.Column("probed_type", sa.Text(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=True),
        sa.Column("pilot", sa.Text(), nullable=True),
        sa.Column("pilot_until", sa.Double(), nullable=True),
        sa.Column("paced_at", sa.Double(), nullable=True),
        sa.Column("pace", sa.Double(), nullable=True),
        sa.Column("helpless_until", sa.Double(), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("endpoint"),
    )
    op.create_table(
        "resonant_send_slots",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("reserved_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint"),
    )
    op.add_column("resonant_deliveries", sa.Column("backoff_until", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("resonant_deliveries", "backoff_until")
    op.drop_table("resonant_send_slots")
    op.drop_table("resonant_gates")
