"""One message for many that a channel's limit held back. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from server.outbox.message import MILDEST_FIRST, Message
from server.outbox.rows import DeliveryRow

KIND = "digest"
MOST = 500  # messages in one digest; what is beyond waits for the next
LINES = 50  # of its text, which people read; its JSON names every message


def digest_of(held: Sequence[DeliveryRow]) -> Message:
    """A message that names what it holds, worst severity and oldest message first."""
    worst = max((row.severity for row in held), key=MILDEST_FIRST.index)
    counts = Counter(row.severity for row in held)
    summary = ", ".join(f"{counts[name]} {name}" for name in MILDEST_FIRST[::-1] if counts[name])
    lines = [f"- {row.title}" for row in held[:LINES]]
    if len(held) > LINES:
        lines.append(f"- and {len(held) - LINES} more")
    title = f"evenkeel: {len(held)} messages ({summary})"
    projects = {row.project for row in held}
    return Message(
        kind=KIND,
        run_id="",
        project=projects.pop() if len(projects) == 1 else "",
        severity=worst,
        title=title,
        text="\n".join(lines),
        body=msgspec.json.encode(
            {
                "kind": KIND,
                "severity": worst,
                "title": title,
                "messages": [_entry(row) for row in held],
            }
        ).decode(),
    )


def _entry(row: DeliveryRow) -> dict[str, object]:
    return {
        "id": row.id,
        "kind": row.kind,
        "severity": row.severity,
        "title": row.title,
        "project": row.project,
        "run_id": row.run_id,
        "created_at": row.created_at,
    }
