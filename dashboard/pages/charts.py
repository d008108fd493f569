"""Charts on a card, with their heading in HTML so that it reads before the chart is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html

CURVES = (
    (
        "ahead",
        "one block ahead, with its band",
        "Each layer from the measured other side of its block and the block's last samples",
    ),
    ("predicted", "at initialisation", "From the weights at the run's start: where it began"),
    ("band", "its band", "About 95 % of the layers of freshly drawn weights"),
    ("today", "from today's weights", "From the weights described last before the step on show"),
)
SHOWN_CURVES = ("ahead", "predicted")

# Axes follow the player and not the mouse, so Plotly's own tools are off.
CONFIG = {"displayModeBar": False, "responsive": True, "doubleClick": False}


def graph(figure: go.Figure, element_id: str, kind: str) -> html.Div:
    """A chart without a toolbar; its `kind` is the class by which the stylesheet sizes it."""
    return html.Div(dcc.Graph(id=element_id, figure=figure, config=CONFIG), className=kind)


def plot(chart: html.Div, label: str, *overlays: Any) -> html.Div:
    """A chart's place on its card; `label` tells a screen reader what it shows."""
    return html.Div([chart, *overlays], className="plot", role="img", **{"aria-label": label})


def missing_reasons(quantity: str, reasons: Sequence[str]) -> html.Div:
    """Why predictions are absent, one line for each column; the script keeps them current."""
    lines = [
        html.P(reason, hidden=not reason, title=reason, **{"data-why": f"{quantity}:{index}"})
        for index, reason in enumerate(reasons)
    ]
    return html.Div(lines, className="why", style={"--columns": len(reasons)})


def chart_card(
    title: str,
    note: str,
    *body: Any,
    side: Any = None,
) -> html.Section:
    """A chart under its heading, with `side` at the heading's right."""
    heading = html.Header(
        [html.H2(title), html.Span(note, className="quiet"), html.Span(side, className="side")]
    )
    return html.Section([heading, *body], className="card chart")


def legend() -> html.Div:
    """What each line style means, the same on every page; curves but the measured can be picked."""
    return html.Div(
        [
            html.Span([html.I(className="key key-measured"), "measured"]),
            *(_curve_switch(name, meaning, hint) for name, meaning, hint in CURVES),
            html.Span([html.I(className="key key-alarm"), "NaN or Inf"]),
        ],
        className="legend",
        role="group",
        **{"aria-label": "Curves on show"},
    )


def _curve_switch(name: str, meaning: str, hint: str) -> html.Button:
    return html.Button(
        [html.I(className=f"key key-{name}"), meaning],
        type="button",
        className="curve",
        title=hint,
        **{"data-curve": name, "aria-pressed": "true" if name in SHOWN_CURVES else "false"},
    )
