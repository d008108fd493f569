"""The burst a run is asked for, and when its newest process began to speak."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("runs", sa.Column("burst", JSON, nullable=True))
    with op.batch_alter_table("runs") as runs:
        runs.add_column(
            sa.Column("process_since", sa.Float(), nullable=False, server_default=sa.text("0"))
        )


def downgrade() -> None:
    op.drop_column("runs", "process_since")
    op.drop_column("runs", "burst")
