"""From rows to the JSON form of incidents."""

from __future__ import annotations

from collections.abc import Sequence

from server.alerts import serializers
from server.alerts.incidents.causes import cause_of
from server.alerts.incidents.rows import ChangeRow, ListedIncident, SilenceRow
from server.alerts.incidents.schemas import Incident, IncidentChange, Silence
from server.alerts.rows import AlertRow

_OF_ROW = (
    "id", "run_id", "run_name", "domain", "severity", "status", "note", "opened_at", "resolved_at",
    "root",
)  # fmt: skip
_OF_ROOT = (
    "rule", "title", "message", "advice", "stack", "site", "first_layer", "last_layer",
)  # fmt: skip


def incident(
    row: ListedIncident, alerts: Sequence[AlertRow], timeline: Sequence[ChangeRow]
) -> Incident:
    """The JSON form of a stored incident; `alerts` are its own, the root among them."""
    root = serializers.alert(next(alert for alert in alerts if alert.id == row.root))
    evidence = sorted(alerts, key=lambda alert: (alert.id != row.root, alert.began, alert.key))
    key = next(alert.finding_key for alert in alerts if alert.id == row.root)
    return Incident(
        **{name: getattr(row, name) for name in _OF_ROW},
        **{name: getattr(root, name) for name in _OF_ROOT},
        cause=cause_of(key) if row.domain == "training" else None,
        first_step=min(alert.began for alert in alerts),
        last_step=max(alert.last_step for alert in alerts),
        alerts=[serializers.alert(alert) for alert in evidence],
        timeline=[change(line) for line in timeline],
    )


def change(row: ChangeRow) -> IncidentChange:
    """The JSON form of a line of a timeline."""
    return IncidentChange(**{name: getattr(row, name) for name in IncidentChange.model_fields})


def silence(row: SilenceRow, run_name: str | None, incident_title: str | None) -> Silence:
    """The JSON form of a silence."""
    names = Silence.model_fields.keys() - {"run", "run_name", "incident_title"}
    return Silence(
        run=row.run_id,
        run_name=run_name,
        incident_title=incident_title,
        **{name: getattr(row, name) for name in names},
    )
