"""Accepted events are counted in separate rows, which are added to the ledgers and the rollups later."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "resonant_acceptances",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("accepted_at", sa.Double(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.execute(
        "INSERT INTO resonant_endpoints (name, accepted) "
        "SELECT endpoint, sum(count) FROM resonant_acceptances WHERE true GROUP BY endpoint "
        "ON CONFLICT (name) DO UPDATE SET accepted = resonant_endpoints.accepted + excluded.accepted"
    )
    op.drop_table("resonant_acceptances")
