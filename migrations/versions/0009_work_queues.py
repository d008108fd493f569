"""Who sends as which rank, which process judges it, and indexes over what waits for work."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

QUEUES = {"marks_unjudged": "diagnosed < durable", "marks_unpacked": "packed < durable"}


def upgrade() -> None:
    with op.batch_alter_table("marks") as marks:
        marks.add_column(
            sa.Column("judge", sa.String(length=32), nullable=False, server_default="")
        )
    for name, condition in QUEUES.items():
        # Partial: what has nothing to wait for is not in it, however many runs there ever were.
        op.create_index(
            name,
            "marks",
            ["run_id", "rank"],
            postgresql_where=sa.text(condition),
            sqlite_where=sa.text(condition),
        )
    op.create_table(
        "judges",
        sa.Column("id", sa.String(length=32), primary_key=True),
        sa.Column("alive_until", sa.Float(), nullable=False),
    )
    op.create_table(
        "writers",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("writer", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("leased_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "rank"),
    )


def downgrade() -> None:
    for table in ("writers", "judges"):
        op.drop_table(table)
    for name in QUEUES:
        op.drop_index(name, "marks")
    with op.batch_alter_table("marks") as marks:
        marks.drop_column("judge")
