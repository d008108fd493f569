"""Channels and their routes, digests, silences of a tag or an incident; longer names in alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NAMES = {"key": 300, "stack": 64, "site": 64, "quantity": 64}  # lengths before


def upgrade() -> None:
    op.create_table(
        "channels",
        sa.Column("id", sa.String(length=16), primary_key=True),
        sa.Column("project", sa.String(length=200)),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secrets", _json(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("title_template", sa.Text(), nullable=False),
        sa.Column("text_template", sa.Text(), nullable=False),
        sa.Column("most", sa.Integer()),
        sa.Column("window_s", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "routes",
        sa.Column("id", sa.String(length=32), primary_key=True),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("project", sa.String(length=200)),
        sa.Column("tag", sa.String(length=200)),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_index("routes_channel", "routes", ["channel"])
    with op.batch_alter_table("deliveries") as deliveries:
        deliveries.add_column(
            sa.Column("answer", sa.Text(), nullable=False, server_default=sa.text("''"))
        )
        deliveries.add_column(
            sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        deliveries.add_column(sa.Column("digest", sa.String(length=32)))
        deliveries.create_index("deliveries_ended", ["target", "status", "ended_at"])
    with op.batch_alter_table("silences") as silences:
        silences.add_column(sa.Column("tag", sa.String(length=200)))
        silences.add_column(sa.Column("incident", sa.String(length=32)))
    with op.batch_alter_table("alerts") as alerts:
        for name, length in NAMES.items():
            alerts.alter_column(
                name, existing_type=sa.String(length=length), type_=sa.Text(), nullable=False
            )


def downgrade() -> None:
    with op.batch_alter_table("alerts") as alerts:
        for name, length in NAMES.items():
            alerts.alter_column(
                name,
                existing_type=sa.Text(),
                type_=sa.String(length=length),
                nullable=False,
                postgresql_using=f"left({name}, {length})",
            )
    # Without its tag or incident a silence would silence everything.
    op.execute("DELETE FROM silences WHERE tag IS NOT NULL OR incident IS NOT NULL")
    with op.batch_alter_table("silences") as silences:
        silences.drop_column("incident")
        silences.drop_column("tag")
    # What waits in a digest is said by the digest; older servers know no such status.
    op.execute("UPDATE deliveries SET status = 'delivered' WHERE status = 'digested'")
    with op.batch_alter_table("deliveries") as deliveries:
        deliveries.drop_index("deliveries_ended")
        for name in ("digest", "held", "answer"):
            deliveries.drop_column(name)
    op.drop_table("routes")
    op.drop_table("channels")


def _json() -> sa.JSON:
    from sqlalchemy.dialects import postgresql

    return sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
