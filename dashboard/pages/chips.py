"""Small marks that several pages share: status, tags, counts, copyable code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import html

from dashboard.formats import STATUS_WORDS


def status_chip(status: str, **attributes: Any) -> html.Span:
    """A run's status as a coloured dot and a word; running ones pulse."""
    word = STATUS_WORDS.get(status, status)
    return html.Span(
        [html.Span(className="dot"), html.Span(word, className="status-word")],
        className=f"status status-{status}",
        **attributes,
    )


def tag_chips(tags: Sequence[str]) -> list[html.Span]:
    """A run's tags."""
    return [html.Span(tag, className="tag") for tag in tags]


def alert_badge(alerts: Mapping[str, int]) -> html.Span:
    """How many alerts of each severity are open; nothing when none is."""
    critical, warning = alerts.get("critical", 0), alerts.get("warning", 0)
    marks = [
        html.Span(f"{n} {word}", className=f"badge badge-{word}", title=f"{n} open {word} alerts")
        for n, word in ((critical, "critical"), (warning, "warning"))
        if n
    ]
    return html.Span(marks, className="badges")


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
