"""Small elements that several pages share: status, tags, counts, copyable code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import html

from dashboard.api_types import AlertCounts


def status_chip(status: str, **attributes: Any) -> html.Span:
    """A run's status as a coloured dot and a word; the dot of a running one pulses."""
    return html.Span(
        [html.Span(className="dot"), html.Span(status.replace("_", " "), className="status-word")],
        className=f"status status-{status}",
        **attributes,
    )


def tag_chips(tags: Sequence[str]) -> list[html.Span]:
    """A run's tags."""
    return [html.Span(tag, className="tag") for tag in tags]


def alert_badges(alerts: AlertCounts) -> html.Span:
    """How many alerts of each severity are open; empty when none is."""
    counts = (("critical", alerts.critical), ("warning", alerts.warning))
    badges = [
        html.Span(f"{n} {name}", className=f"badge badge-{name}", title=f"{n} open {name} alerts")
        for name, n in counts
        if n
    ]
    return html.Span(badges, className="badges")


def snippet(code: str, **attributes: Any) -> html.Div:
    """Code with a button that copies it."""
    return html.Div(
        [
            html.Pre(html.Code(code)),
            html.Button("Copy", className="copy", type="button", title="Copy to the clipboard"),
        ],
        className="snippet",
        **attributes,
    )
