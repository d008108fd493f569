"""Messages and rows for the tests of the outbox."""

from __future__ import annotations

from typing import Any

import msgspec

from server.outbox.message import Message
from server.outbox.rows import DeliveryRow, TargetRow

RUN = "a" * 32


def message(number: int = 1, project: str = "demo") -> Message:
    """A message whose body says its number."""
    return Message(
        kind="alert",
        run_id=RUN,
        project=project,
        severity="critical",
        title=f"post-ln: rank collapse {number}",
        text="At step 16 …",
        body=msgspec.json.encode({"number": number, "title": "Rank collapse"}).decode(),
    )


def delivery(**changes: Any) -> DeliveryRow:
    """A delivery that waits for its first attempt."""
    row = DeliveryRow(
        number=1,
        id="d" * 32,
        target="t" * 16,
        **message().columns,
        status="pending",
        attempts=0,
        retry_at=0.0,
        stepped_aside=False,
        last_error="",
        created_at=0.0,
        expires_at=86_400.0,
        attempted_at=None,
        ended_at=None,
    )
    return msgspec.structs.replace(row, **changes)


def target(**changes: Any) -> TargetRow:
    """A target that is well."""
    row = TargetRow("t" * 16, "http://host", leased_by="", leased_until=0, failures=0, retry_at=0)
    return msgspec.structs.replace(row, **changes)
