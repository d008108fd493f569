"""What webhooks are told of an incident: once when it opens, escalates and is resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from server.alerts.incidents.rows import IncidentRow, SilenceRow
from server.alerts.incidents.schemas import Incident, IncidentNotice
from server.alerts.rows import AlertRow
from server.alerts.rules import Severity
from server.alerts.rules.finding import SEVERITIES
from server.outbox.message import Message

HEADINGS = {
    "incident.opened": "",
    "incident.escalated": "now critical: ",
    "incident.resolved": "resolved: ",
}
LOUD = SEVERITIES[1:]  # information is on the page, and told nobody


def loudness(alerts: Iterable[AlertRow], silences: Sequence[SilenceRow]) -> Severity:
    """The worst of the alerts that nobody has acknowledged or silenced, and that hold."""
    severities: list[Severity] = ["info"]
    for alert in alerts:
        if alert.status == "open" and not any(silence.covers(alert) for silence in silences):
            severities.append(alert.severity)
    return max(severities, key=SEVERITIES.index)


def due(row: IncidentRow, loud: Severity) -> str | None:
    """The kind of message that an incident is worth now, or None.

    It follows from what webhooks know already, so that a silence that ends or a restart neither
    forgets a message nor repeats one.
    """
    if row.status == "resolved":
        return "incident.resolved" if row.notified else None
    if row.status == "acknowledged" or loud not in LOUD:
        return None
    if not row.notified:
        return "incident.opened"
    worse = SEVERITIES.index(loud) > SEVERITIES.index(_severity(row.notified))
    return "incident.escalated" if worse else None


def _severity(text: str) -> Severity:
    return next(severity for severity in SEVERITIES if severity == text)


def message_of(incident: Incident, kind: str, project: str) -> Message:
    """The message itself: the root with its remedy, then what else was seen."""
    others = [alert.title for alert in incident.alerts if alert.id != incident.root]
    also = [f"Also: {'; '.join(others)}."] if others else []
    resolved = kind == "incident.resolved"
    fields = {name: getattr(incident, name) for name in Incident.model_fields}
    return Message(
        kind=kind,
        run_id=incident.run_id,
        project=project,
        severity="info" if resolved else incident.severity,
        title=f"{incident.run_name}: {HEADINGS[kind]}{incident.title}",
        text="\n\n".join([incident.message, *([] if resolved else [incident.advice.text]), *also]),
        body=IncidentNotice(kind=kind, **fields).model_dump_json(),
    )
