"""The rows of `incidents`, `incident_changes` and `silences`: one field a column, in order."""

from __future__ import annotations

import msgspec

from server.alerts.incidents.causes import Domain
from server.alerts.incidents.grouping import ChangeKind, Evidence, Incident
from server.alerts.rows import AlertRow, AlertStatus
from server.alerts.rules import Severity


class IncidentRow(msgspec.Struct, frozen=True):
    """An incident as it is stored.

    Attributes:
        notified: the severity that webhooks were told; ``""`` before they were told any.
        root: id of the alert nearest to the cause.
        grown_step, closed_step: see `server.alerts.incidents.grouping.Incident`.
    """

    id: str
    run_id: str
    domain: Domain
    status: AlertStatus
    severity: Severity
    notified: str
    root: str
    grown_step: int
    closed_step: int | None
    note: str
    opened_at: float
    resolved_at: float | None


class ListedIncident(IncidentRow, frozen=True):
    """A stored incident with its run's name, project and tags."""

    run_name: str
    project: str
    tags: list[str] = msgspec.field(default_factory=list)


class ChangeRow(msgspec.Struct, frozen=True):
    """A line of an incident's timeline; `step` is None for what people did."""

    number: int
    incident: str
    at: float
    step: int | None
    kind: ChangeKind
    alert: str | None
    text: str


class SilenceRow(msgspec.Struct, frozen=True):
    """Until when nobody is told of a project, a run, a rule, a tag or an incident.

    What is None means any; of an alert all that is named has to be true.
    """

    id: str
    project: str | None
    run_id: str | None
    rule: str | None
    note: str
    created_at: float
    until: float
    tag: str | None = None
    incident: str | None = None

    def covers(self, alert: AlertRow) -> bool:
        """Whether it silences an alert."""
        pairs = (
            (self.project, alert.project),
            (self.run_id, alert.run_id),
            (self.rule, alert.rule),
            (self.incident, alert.incident),
        )
        is_tagged = self.tag is None or self.tag in alert.tags
        return is_tagged and all(silenced in (None, value) for silenced, value in pairs)


class ListedSilence(SilenceRow, frozen=True):
    """A stored silence with the name of its run, or its incident's, and what the incident says."""

    run_name: str | None = None
    incident_title: str | None = None


def evidence_of(alert: AlertRow) -> Evidence:
    """A stored alert as grouping sees it."""
    return Evidence(
        alert=alert.id,
        key=alert.finding_key,
        severity=alert.severity,
        began=alert.began,
        holds=alert.status != "resolved",
    )


def incident_of(row: IncidentRow, alerts: list[AlertRow]) -> Incident:
    """A stored incident as grouping sees it; `alerts` are its own."""
    return Incident(
        id=row.id,
        domain=row.domain,
        status=row.status,
        evidence=tuple(evidence_of(alert) for alert in alerts),
        grown_step=row.grown_step,
        closed_step=row.closed_step,
    )
