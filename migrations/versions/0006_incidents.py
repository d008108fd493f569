"""What belongs together among a run's alerts, its history, and what is silenced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("alerts") as alerts:
        alerts.add_column(sa.Column("incident", sa.String(length=32)))
        alerts.add_column(
            sa.Column("began", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
        alerts.create_index("alerts_incident", ["incident"])
    op.execute("UPDATE alerts SET began = step")
    op.create_table(
        "incidents",
        sa.Column("id", sa.String(length=32), primary_key=True),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("domain", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("notified", sa.String(length=16), nullable=False),
        sa.Column("root", sa.String(length=32), nullable=False),
        sa.Column("grown_step", sa.BigInteger(), nullable=False),
        sa.Column("closed_step", sa.BigInteger()),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("resolved_at", sa.Float()),
    )
    op.create_index("incidents_newest", "incidents", ["opened_at", "id"])
    op.create_index("incidents_run", "incidents", ["run_id", "status"])
    op.create_table(
        "incident_changes",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("incident", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("step", sa.BigInteger()),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("alert", sa.String(length=32)),
        sa.Column("text", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("incident_changes_order", "incident_changes", ["incident", "number"])
    op.create_table(
        "silences",
        sa.Column("id", sa.String(length=32), primary_key=True),
        sa.Column("project", sa.String(length=200)),
        sa.Column("run_id", sa.String(length=32)),
        sa.Column("rule", sa.String(length=64)),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
    )
    op.create_index("silences_until", "silences", ["until"])
    _give_every_alert_an_incident()


def _give_every_alert_an_incident() -> None:
    """An incident each: which of them belonged together nobody noted. Webhooks know them."""
    op.execute(
        """
        INSERT INTO incidents (id, run_id, domain, status, severity, notified, root, grown_step,
                               closed_step, note, opened_at, resolved_at)
        SELECT id, run_id,
               CASE rule WHEN 'agent_health' THEN 'telemetry' WHEN 'lost_contact' THEN 'contact'
                         ELSE 'training' END,
               status, severity,
               CASE WHEN severity = 'info' OR status = 'resolved' THEN '' ELSE severity END,
               id, step, CASE status WHEN 'resolved' THEN last_step END, '', opened_at, resolved_at
        FROM alerts
        """
    )
    op.execute(
        """
        INSERT INTO incident_changes (incident, at, step, kind, alert, text)
        SELECT id, opened_at, step, 'opened', id, '' FROM alerts
        """
    )
    op.execute("UPDATE alerts SET incident = id")


def downgrade() -> None:
    for table in ("silences", "incident_changes", "incidents"):
        op.drop_table(table)
    with op.batch_alter_table("alerts") as alerts:
        alerts.drop_index("alerts_incident")
        alerts.drop_column("began")
        alerts.drop_column("incident")
