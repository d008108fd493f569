"""The tables, once, for SQLite and Postgres alike; each package's `rows.py` types their rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()


Json = JSON().with_variant(JSONB(), "postgresql")


class ExactFloat(TypeDecorator[float]):
    """A float whose NaN and infinities survive: SQLite would store NaN as NULL."""

    impl = String(32)
    cache_ok = True

    @property
    def python_type(self) -> type[Any]:
        """The type of its values in Python, which is not that of `impl`."""
        return float

    def process_bind_param(self, value: float | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Write the shortest text that reads back as the same float."""
        return None if value is None else repr(float(value))

    def process_result_value(self, value: Any | None, dialect: Dialect) -> float | None:  # noqa: ARG002
        """Read it back."""
        return None if value is None else float(value)


runs = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project", String(200), nullable=False),
    Column("name", String(200), nullable=False),
    Column("tags", Json, nullable=False),
    Column("tag_index", Text, nullable=False),  # "\n"-framed tags, searched without JSON operators
    Column("config", Json, nullable=False),
    Column("status", String(16), nullable=False),
    Column("ended", String(16)),
    Column("end_reason", Text, nullable=False),
    Column("diverged", Boolean, nullable=False),
    Column("diverging", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("first_step", BigInteger),
    Column("last_step", BigInteger),
    Column("last_loss", ExactFloat),
    Column("sparkline", Json, nullable=False),
    Column("frames", BigInteger, nullable=False),
    Column("layout_hash", String(32), nullable=False),
    Column("agent_version", String(64), nullable=False),
    Column("family", String(64), nullable=False),
    Column("architecture", String(200), nullable=False),
    Column("placement", String(8)),
    Column("n_params", BigInteger, nullable=False),
    Column("stacks", Json, nullable=False),
    Column("missing", Json, nullable=False),
    Column("notes", Json, nullable=False),
    Column("describe_id", String(32)),
    Column("burst", Json),
    Column("process_since", Float, nullable=False, server_default="0"),
    Index("runs_newest", "created_at", "id"),
    Index("runs_status", "status", "last_seen"),
)

layouts = Table(
    "layouts",
    metadata,
    Column("run_id", String(32), nullable=False),
    Column("hash", String(32), nullable=False),
    Column("series", Json, nullable=False),
    PrimaryKeyConstraint("run_id", "hash"),
)

frames = Table(
    "frames",
    metadata,
    Column("run_id", String(32), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("time", Float, nullable=False),
    Column("layout", String(32), nullable=False),
    Column("values", LargeBinary, nullable=False),
    PrimaryKeyConstraint("run_id", "rank", "seq"),
    Index("frames_step", "run_id", "step"),
    postgresql_partition_by="HASH (run_id)",
)


def _queue(name: str, waits: ColumnElement[bool]) -> Index:
    """An index over the ranks that wait for work: its size is that of the queue."""
    return Index(name, marks.c.run_id, marks.c.rank, postgresql_where=waits, sqlite_where=waits)


marks = Table(
    "marks",
    metadata,
    Column("run_id", String(32), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("durable", BigInteger, nullable=False),
    Column("oldest", BigInteger, nullable=False),
    Column("diagnosed", BigInteger, nullable=False),
    Column("packed", BigInteger, nullable=False),
    Column("top_seq", BigInteger, nullable=False, server_default="0"),  # the newest frame's
    Column("top_step", BigInteger, nullable=False, server_default="-1"),
    Column("rewinds", Json, nullable=False, server_default="[]"),  # see runs/rewinds.py
    Column("health", Json, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("judge", String(32), nullable=False, server_default=""),  # one of `judges`, or ""
    PrimaryKeyConstraint("run_id", "rank"),
)
_queue("marks_unjudged", marks.c.diagnosed < marks.c.durable)
_queue("marks_unpacked", marks.c.packed < marks.c.durable)

judges = Table(
    "judges",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("alive_until", Float, nullable=False),
)

writers = Table(
    "writers",
    metadata,
    Column("run_id", String(32), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("writer", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("since", Float, nullable=False),
    Column("leased_until", Float, nullable=False),
    PrimaryKeyConstraint("run_id", "rank"),
)

revisions = Table(
    "spec_revisions",
    metadata,
    Column("run_id", String(32), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("digest", String(32), nullable=False),
    Column("spec", LargeBinary, nullable=False),  # zstd of the JSON form
    Column("received_at", Float, nullable=False),
    PrimaryKeyConstraint("run_id", "step"),
)

predictions = Table(
    "predictions",
    metadata,
    Column("run_id", String(32), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("digest", String(32), nullable=False),
    Column("state", String(16), nullable=False),  # pending, ready, failed
    Column("reason", Text, nullable=False),
    Column("prediction", Json),  # dslm.prediction_to_json; NULL unless ready
    PrimaryKeyConstraint("run_id", "step"),
    Index("predictions_pending", "state"),
)

blocks = Table(
    "blocks",
    metadata,
    Column("run_id", String(32), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("layout", String(32), nullable=False),
    Column("n", Integer, nullable=False),
    Column("seqs", LargeBinary, nullable=False),  # zstd of int64, and so for steps
    Column("steps", LargeBinary, nullable=False),
    Column("times", LargeBinary, nullable=False),  # zstd of float64
    PrimaryKeyConstraint("run_id", "rank", "first_seq"),
    Index("blocks_step", "run_id", "first_step"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("run_id", String(32), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("series", String(300), nullable=False),
    Column("level", Integer, nullable=False),  # 0 = every frame, else frames per coarse cell
    Column("data", LargeBinary, nullable=False),  # zstd of float32, see storage/codec.py
    PrimaryKeyConstraint("run_id", "series", "level", "rank", "first_seq"),
)

step_scalars = Table(
    "step_scalars",
    metadata,
    Column("run_id", String(32), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("layout", String(32), nullable=False),
    Column("n", Integer, nullable=False),
    Column("seqs", LargeBinary, nullable=False),  # as in `blocks`; a frame's steps share its seq
    Column("steps", LargeBinary, nullable=False),
    Column("times", LargeBinary, nullable=False),
    Column("values", LargeBinary, nullable=False),  # as in `chunks`
    PrimaryKeyConstraint("run_id", "rank", "first_seq"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("run_id", String(32), nullable=False),
    Column("key", Text, nullable=False),  # what makes two findings the same alert
    Column("rule", String(64), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("stack", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("quantity", Text, nullable=False),
    Column("first_layer", Integer),
    Column("last_layer", Integer),
    Column("step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("measured", ExactFloat),
    Column("predicted", ExactFloat),
    Column("unit", String(32), nullable=False),
    Column("advice", Json, nullable=False),
    Column("status", String(16), nullable=False),  # open, acknowledged, resolved
    Column("opened_at", Float, nullable=False),
    Column("resolved_at", Float),
    Column("incident", String(32)),
    Column("began", BigInteger, nullable=False, server_default="0"),  # when its rule began to hold
    Index("alerts_newest", "opened_at", "id"),
    Index("alerts_run", "run_id", "status"),
    Index("alerts_incident", "incident"),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("run_id", String(32), nullable=False),
    Column("domain", String(16), nullable=False),
    Column("status", String(16), nullable=False),  # open, acknowledged, resolved
    Column("severity", String(16), nullable=False),
    Column("notified", String(16), nullable=False),  # the severity that webhooks know, or ""
    Column("root", String(32), nullable=False),  # an alert
    Column("grown_step", BigInteger, nullable=False),
    Column("closed_step", BigInteger),  # NULL where it was resolved by hand
    Column("note", Text, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("resolved_at", Float),
    Index("incidents_newest", "opened_at", "id"),
    Index("incidents_run", "run_id", "status"),
)

incident_changes = Table(
    "incident_changes",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("incident", String(32), nullable=False),
    Column("at", Float, nullable=False),
    Column("step", BigInteger),
    Column("kind", String(16), nullable=False),
    Column("alert", String(32)),
    Column("text", Text, nullable=False),
    Index("incident_changes_order", "incident", "number"),
    sqlite_autoincrement=True,
)

silences = Table(
    "silences",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project", String(200)),  # NULL: every project, run, rule, tag, incident
    Column("run_id", String(32)),
    Column("rule", String(64)),
    Column("note", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("until", Float, nullable=False),
    Column("tag", String(200)),
    Column("incident", String(32)),
    Index("silences_until", "until"),
)

alert_rules = Table(
    "alert_rules",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project", String(200)),  # NULL: every project
    Column("enabled", Boolean, nullable=False),
    Column("definition", Json, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("alert_rules_oldest", "created_at", "id"),
)

deliveries = Table(
    "deliveries",
    metadata,
    # In the order of their writing, which is that of sending.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("target", String(16), nullable=False),
    Column("run_id", String(32), nullable=False),
    Column("project", String(200), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("status", String(16), nullable=False),  # pending, delivered, digested, dead
    Column("attempts", Integer, nullable=False),
    Column("retry_at", Float, nullable=False),
    Column("stepped_aside", Boolean, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("attempted_at", Float),
    Column("ended_at", Float),
    Column("answer", Text, nullable=False, server_default=""),  # what the target said last
    Column("held", Boolean, nullable=False, server_default=false()),  # its channel was at its limit
    Column("digest", String(32)),  # the delivery that says this one, too
    Index("deliveries_queue", "target", "status", "number"),
    Index("deliveries_status", "status", "number"),
    Index("deliveries_ended", "target", "status", "ended_at"),
    sqlite_autoincrement=True,
)

delivery_targets = Table(
    "delivery_targets",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", Text, nullable=False),
    Column("leased_by", String(32), nullable=False),
    Column("leased_until", Float, nullable=False),
    Column("failures", Integer, nullable=False),  # in a row
    Column("retry_at", Float, nullable=False),
)

channels = Table(
    "channels",
    metadata,
    Column("id", String(16), primary_key=True),  # also that of its delivery target
    Column("project", String(200)),  # NULL: every project
    Column("name", String(200), nullable=False),
    Column("url", Text, nullable=False),  # may hold a token: never answered, never logged
    Column("secrets", Json, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("title_template", Text, nullable=False),  # "" for the message's own
    Column("text_template", Text, nullable=False),
    Column("most", Integer),  # messages in a window; NULL for no limit
    Column("window_s", Float, nullable=False),
    Column("created_at", Float, nullable=False),
)

routes = Table(
    "routes",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("channel", String(16), nullable=False),
    Column("project", String(200)),  # NULL: every project, every tag
    Column("tag", String(200)),
    Column("severity", String(16), nullable=False),  # the mildest that it carries
    Column("created_at", Float, nullable=False),
    Index("routes_channel", "channel"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("project", String(200)),  # NULL: every project
    Column("scopes", Json, nullable=False),
    Column("label", String(200), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
)

logins = Table(
    "logins",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
)
