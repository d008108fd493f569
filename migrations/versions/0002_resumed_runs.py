"""Where a resumed run went back to, and the description a run is asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("runs", sa.Column("describe_id", sa.String(length=32), nullable=True))
    with op.batch_alter_table("marks") as marks:
        marks.add_column(
            sa.Column("top_seq", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
        marks.add_column(
            sa.Column("top_step", sa.BigInteger(), nullable=False, server_default=sa.text("-1"))
        )
        marks.add_column(sa.Column("rewinds", JSON, nullable=False, server_default=sa.text("'[]'")))


def downgrade() -> None:
    with op.batch_alter_table("marks") as marks:
        for name in ("rewinds", "top_step", "top_seq"):
            marks.drop_column(name)
    op.drop_column("runs", "describe_id")
