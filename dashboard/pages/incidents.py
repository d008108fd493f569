"""Cards of incidents: one fault each, with its remedy, and the alerts that show it beneath."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from dash import html

from dashboard import phrases
from dashboard.api_types import Advice, Alert, Incident, IncidentChange, Scaling
from dashboard.display.numbers import format_count, format_number
from dashboard.pages.chips import snippet

ALWAYS = (("Note", "note"), ("Silence", "silence"))
ACTIONS = {
    "open": (("Acknowledge", "acknowledge"), ("Resolve", "resolve"), *ALWAYS),
    "acknowledged": (("Resolve", "resolve"), ("Reopen", "reopen"), *ALWAYS),
    "resolved": (("Reopen", "reopen"), ALWAYS[0]),
}
# What a line of a timeline says before the title of its alert, or of people.
OF_ALERTS = {
    "opened": "opened",
    "joined": "joined",
    "escalated": "more severe",
    "worsened": "worse",
    "cleared": "clear",
    "root": "root is now",
}


def incident_cards(
    incidents: Sequence[Incident], *, with_run: bool, heading: Any = html.H3
) -> list[Any]:
    """One card for each incident, or one line that says there is none.

    The cards' buttons have no ids of their own: ``assets/js/incidents.js`` hears their clicks.
    """
    if not incidents:
        return [html.P("No alerts.", className="quiet none", **{"data-testid": "no-alerts"})]
    return [incident_card(incident, with_run=with_run, heading=heading) for incident in incidents]


def panel_cards(incidents: Sequence[Incident]) -> list[Any]:
    """A run's incidents by urgency: open ones first, of these critical ones."""
    by_urgency = sorted(
        incidents,
        key=lambda incident: (incident.status != "open", incident.severity != "critical"),
    )
    return incident_cards(by_urgency, with_run=False)


def incident_card(incident: Incident, *, with_run: bool, heading: Any = html.H3) -> html.Article:
    """An incident in full: the root with its numbers and remedy, its evidence, its timeline."""
    root, *others = incident.alerts
    return html.Article(
        [
            _head(incident, with_run, heading),
            html.P(incident.message),
            _numbers(incident, root),
            *_advice(incident.advice),
            *_note(incident.note),
            *_evidence(others),
            _timeline(incident),
        ],
        className=f"alert card alert-{incident.severity} alert-is-{incident.status}",
        key=incident.id,
        **{
            "data-testid": "incident",
            "data-incident": incident.id,
            "data-incident-status": incident.status,
            "data-incident-title": incident.title,
        },
    )


def _head(incident: Incident, with_run: bool, heading: Any) -> html.Div:
    href = address(incident.alerts[0])
    run = html.A(incident.run_name, href=href, className="run-name") if with_run else None
    where = html.A(f"from step {format_count(incident.first_step)}", href=href, className="quiet")
    status = None if incident.status == "open" else html.Span(incident.status, className="quiet")
    return html.Div(
        [
            html.Span(incident.severity, className=f"badge badge-{incident.severity}"),
            heading(incident.title, className="alert-title"),
            html.Span([run, where, status], className="alert-side"),
            _buttons(incident),
        ],
        className="alert-head",
    )


def _buttons(incident: Incident) -> html.Span:
    buttons = [
        html.Button(
            label,
            className="button",
            type="button",
            **{"data-incident-action": action, "aria-label": f"{label}: {incident.title}"},
        )
        for label, action in ACTIONS[incident.status]
    ]
    return html.Span(buttons, className="incident-actions")


def _numbers(incident: Incident, root: Alert) -> html.Dl:
    predicted = "" if root.predicted is None else phrases.measure(root, root.predicted)
    pairs = [
        ("cause in", incident.cause or ""),
        ("where", phrases.site(root)),
        ("layers", phrases.layers(root)),
        ("measured", phrases.measure(root, root.measured)),
        ("predicted", predicted),
        ("opened", phrases.age(incident.opened_at)),
    ]
    return html.Dl([html.Div([html.Dt(label), html.Dd(value)]) for label, value in pairs if value])


def _advice(advice: Advice) -> list[Any]:
    parts: list[Any] = []
    if advice.text:
        parts.append(html.P([html.Strong("What to do. "), advice.text], className="advice"))
    return parts + (_scaling(advice.scaling) if advice.scaling else [])


def _scaling(scaling: Scaling) -> list[Any]:
    lam, beta = format_number(scaling.lam), format_number(scaling.beta)
    return [
        html.P(f"λ = {lam},  β = {beta}", className="scaling"),
        snippet(scaling.snippet, **{"data-testid": "alert-snippet"}),
    ]


def _note(note: str) -> list[Any]:
    return [html.P([html.Strong("Note. "), note], className="advice")] if note else []


def _evidence(alerts: Sequence[Alert]) -> list[Any]:
    """The alerts beneath the root, a line each; what each advises is left to the root."""
    if not alerts:
        return []
    lines = [html.Li(_sign(alert), key=alert.id) for alert in alerts]
    return [html.Ul(lines, className="evidence", **{"data-testid": "incident-evidence"})]


def _sign(alert: Alert) -> list[Any]:
    over = alert.status == "resolved"
    step = html.A(f"step {format_count(alert.step)}", href=address(alert))
    where = [part for part in (phrases.layers(alert), "clear again" if over else "") if part]
    return [
        html.Span(alert.severity, className=f"badge badge-{alert.severity}"),
        html.Span(
            [
                html.Span(alert.title, title=alert.message),
                html.Span([step, *(f" · {part}" for part in where)], className="quiet"),
            ]
        ),
    ]


def _timeline(incident: Incident) -> html.Details:
    titles = {alert.id: alert.title for alert in incident.alerts}
    lines = [html.Li(line_text(line, titles)) for line in incident.timeline]
    summary = html.Summary(f"Timeline ({len(lines)})", className="quiet")
    # A list that scrolls has to be reached by the keyboard.
    scrolling = html.Ol(lines, tabIndex=0, **{"aria-label": "Timeline"})
    return html.Details([summary, scrolling], className="incident-timeline")


def line_text(line: IncidentChange, titles: dict[str, str]) -> str:
    """A line of a timeline in words."""
    when = phrases.age(line.at) if line.step is None else f"step {format_count(line.step)}"
    if line.kind in OF_ALERTS:
        return f"{when}: {OF_ALERTS[line.kind]}: {titles.get(line.alert or '', '')}"
    return f"{when}: {line.kind}" + (f": {line.text}" if line.text else "")


def address(alert: Alert) -> str:
    """The run's page at the step of an alert, with the layers marked that it names."""
    query: dict[str, Any] = {"step": alert.step}
    if alert.stack and alert.first_layer is not None:
        last = alert.first_layer if alert.last_layer is None else alert.last_layer
        query |= {"stack": alert.stack, "layers": f"{alert.first_layer}-{last}"}
    return f"/runs/{alert.run_id}?{urlencode(query)}"
