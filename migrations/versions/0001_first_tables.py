"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
RUN_PARTITIONS = 8


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=300), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("stack", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=64), nullable=False),
        sa.Column("quantity", sa.String(length=64), nullable=False),
        sa.Column("first_layer", sa.Integer(), nullable=True),
        sa.Column("last_layer", sa.Integer(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("measured", sa.String(length=32), nullable=True),
        sa.Column("predicted", sa.String(length=32), nullable=True),
        sa.Column("unit", sa.String(length=32), nullable=False),
        sa.Column("advice", JSON, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("resolved_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("alerts_newest", "alerts", ["opened_at", "id"])
    op.create_index("alerts_run", "alerts", ["run_id", "status"])

    op.create_table(
        "blocks",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("layout", sa.String(length=32), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("seqs", sa.LargeBinary(), nullable=False),
        sa.Column("steps", sa.LargeBinary(), nullable=False),
        sa.Column("times", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "rank", "first_seq"),
    )
    op.create_index("blocks_step", "blocks", ["run_id", "first_step"])

    op.create_table(
        "chunks",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("series", sa.String(length=300), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "series", "level", "rank", "first_seq"),
    )
    op.create_table(
        "frames",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("layout", sa.String(length=32), nullable=False),
        sa.Column("values", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "rank", "seq"),
        postgresql_partition_by="HASH (run_id)",
    )
    _partition_frames()
    op.create_index("frames_step", "frames", ["run_id", "step"])

    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=200), nullable=True),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "layouts",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("hash", sa.String(length=32), nullable=False),
        sa.Column("series", JSON, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "hash"),
    )
    op.create_table(
        "logins",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "marks",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("durable", sa.BigInteger(), nullable=False),
        sa.Column("oldest", sa.BigInteger(), nullable=False),
        sa.Column("diagnosed", sa.BigInteger(), nullable=False),
        sa.Column("packed", sa.BigInteger(), nullable=False),
        sa.Column("health", JSON, nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "rank"),
    )
    op.create_table(
        "predictions",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("prediction", JSON, nullable=True),
        sa.PrimaryKeyConstraint("run_id", "step"),
    )
    op.create_index("predictions_pending", "predictions", ["state"])

    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("project", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("tag_index", sa.Text(), nullable=False),
        sa.Column("config", JSON, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("ended", sa.String(length=16), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=False),
        sa.Column("diverged", sa.Boolean(), nullable=False),
        sa.Column("diverging", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=True),
        sa.Column("last_loss", sa.String(length=32), nullable=True),
        sa.Column("sparkline", JSON, nullable=False),
        sa.Column("frames", sa.BigInteger(), nullable=False),
        sa.Column("layout_hash", sa.String(length=32), nullable=False),
        sa.Column("agent_version", sa.String(length=64), nullable=False),
        sa.Column("family", sa.String(length=64), nullable=False),
        sa.Column("architecture", sa.String(length=200), nullable=False),
        sa.Column("placement", sa.String(length=8), nullable=True),
        sa.Column("n_params", sa.BigInteger(), nullable=False),
        sa.Column("stacks", JSON, nullable=False),
        sa.Column("missing", JSON, nullable=False),
        sa.Column("notes", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("runs_newest", "runs", ["created_at", "id"])
    op.create_index("runs_status", "runs", ["status", "last_seen"])

    op.create_table(
        "spec_revisions",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "step"),
    )


def downgrade() -> None:
    op.drop_table("spec_revisions")
    op.drop_index("runs_status", table_name="runs")
    op.drop_index("runs_newest", table_name="runs")

    op.drop_table("runs")
    op.drop_index("predictions_pending", table_name="predictions")

    op.drop_table("predictions")
    op.drop_table("marks")
    op.drop_table("logins")
    op.drop_table("layouts")
    op.drop_table("keys")
    op.drop_index("frames_step", table_name="frames")

    op.drop_table("frames")
    op.drop_table("chunks")
    op.drop_index("blocks_step", table_name="blocks")

    op.drop_table("blocks")
    op.drop_index("alerts_run", table_name="alerts")
    op.drop_index("alerts_newest", table_name="alerts")

    op.drop_table("alerts")


def _partition_frames() -> None:
    """Spread frames over partitions by run; SQLite has no partitions and needs none."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for index in range(RUN_PARTITIONS):
        op.execute(
            f"CREATE TABLE frames_{index} PARTITION OF frames "
            f"FOR VALUES WITH (MODULUS {RUN_PARTITIONS}, REMAINDER {index})"
        )
