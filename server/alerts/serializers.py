"""From findings to rows, and from rows to the JSON form of alerts."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any

from server.alerts.rows import AlertColumns, AlertRow
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


def new_alert(run_id: str, finding: Finding, *, began: int, now: float) -> AlertColumns:
    """The alert that a finding opens."""
    return AlertColumns(
        id=uuid.uuid4().hex,
        run_id=run_id,
        key=key_text(finding.key),
        step=finding.step,
        status="open",
        opened_at=now,
        resolved_at=None,
        incident=None,
        began=began,
        **finding_columns(finding),
    )


def finding_columns(finding: Finding) -> dict[str, Any]:
    """The columns that a finding sets, when an alert opens and when it gets worse."""
    columns = {name: getattr(finding, name) for name in _COLUMNS}
    # Not `step`, which stays the one at which the alert opened.
    return {**columns, "advice": asdict(finding.advice), "last_step": finding.step}


def alert(row: AlertRow) -> Alert:
    """The JSON form of a stored alert."""
    return Alert(**{name: getattr(row, name) for name in Alert.model_fields})


def notice(row: AlertRow) -> AlertNotice:
    """A stored alert as the run's own job receives it."""
    return AlertNotice(**{name: getattr(row, name) for name in AlertNotice.__struct_fields__})
