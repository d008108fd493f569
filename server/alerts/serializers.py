"""From findings to rows, and from rows to the JSON form of alerts."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from server.alerts.rules import Finding, Key
from server.alerts.schemas import Alert
from wire import AlertNotice

_COLUMNS = (
    "rule", "severity", "title", "message", "stack", "site", "quantity", "first_layer",
    "last_layer", "measured", "predicted", "unit",
)  # fmt: skip


def key_text(key: Key) -> str:
    """A key as its column holds it."""
    return "|".join(key)


def key_of(row: Mapping[str, Any]) -> Key:
    """The key of a stored alert."""
    return Key(row["rule"], row["stack"], row["site"])


def new_row(run_id: str, finding: Finding, now: float) -> dict[str, Any]:
    """The row of an alert that opens."""
    return {
        "id": uuid.uuid4().hex,
        "run_id": run_id,
        "key": key_text(finding.key),
        "step": finding.step,
        "status": "open",
        "opened_at": now,
        **found_columns(finding),
    }


def found_columns(finding: Finding) -> dict[str, Any]:
    """The columns that a finding sets, when an alert opens and when it gets worse."""
    columns = {name: getattr(finding, name) for name in _COLUMNS}
    return {**columns, "advice": asdict(finding.advice), "last_step": finding.step}


def alert(row: Mapping[str, Any]) -> Alert:
    """The JSON form of a stored alert."""
    return Alert(**{name: row[name] for name in Alert.model_fields})


def word(row: Mapping[str, Any]) -> AlertNotice:
    """What the run's own job is told of a stored alert."""
    return AlertNotice(**{name: row[name] for name in AlertNotice.__struct_fields__})
