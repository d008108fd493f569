"""What webhooks are told of an incident: once when it opens, escalates and is resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

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


def message_of(
    incident: Incident,
    kind: str,
    project: str,
    *,
    tags: Sequence[str] = (),
    public_url: str = "",
) -> Message:
    """The message itself: the root with its remedy, then what else was seen."""
    others = [alert.title for alert in incident.alerts if alert.id != incident.root]
    also = [f"Also: {'; '.join(others)}."] if others else []
    resolved = kind == "incident.resolved"
    link = public_url + address_of(incident) if public_url else ""
    advice = "" if resolved else incident.advice.text
    parts = [incident.message, advice, *also, link]
    fields = {name: getattr(incident, name) for name in Incident.model_fields}
    return Message(
        kind=kind,
        run_id=incident.run_id,
        project=project,
        severity="info" if resolved else incident.severity,
        title=f"{incident.run_name}: {HEADINGS[kind]}{incident.title}",
        text="\n\n".join(part for part in parts if part),
        body=IncidentNotice(kind=kind, **fields).model_dump_json(),
        tags=tuple(tags),
        reach=incident.severity,
        values={
            "run": incident.run_name,
            "project": project,
            "tags": ", ".join(tags),
            "severity": incident.severity,
            "event": kind.rpartition(".")[2],
            "title": incident.title,
            "message": incident.message,
            "advice": advice,
            "also": "; ".join(others),
            "cause": incident.cause or "",
            "step": str(incident.alerts[0].step),
            "layers": layers_of(incident).replace("-", "–"),
            "link": link,
        },
    )


def layers_of(incident: Incident) -> str:
    """The layers of an incident's root, e.g. ``"7-24"`` or ``"7"``; ``""`` for none."""
    first, last = incident.first_layer, incident.last_layer
    if first is None:
        return ""
    return str(first) if last in (None, first) else f"{first}-{last}"


def address_of(incident: Incident) -> str:
    """The path of the run's page at the incident's step, with its layers marked."""
    query = {
        "step": str(incident.alerts[0].step),
        "stack": incident.stack,
        "layers": layers_of(incident),
    }
    filled = {name: value for name, value in query.items() if value}
    return f"/runs/{incident.run_id}?{urlencode(filled)}"
