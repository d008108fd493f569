"""Heatmaps over steps and layers: the axes, the canvas under them, the choice of quantity."""

from __future__ import annotations

from typing import Any

from dash import html

from dashboard.display.quantities import QUANTITIES
from dashboard.figures import heatmap_axes
from dashboard.pages.charts import graph

REFERENCES = (
    ("", "initialisation", "Measured against the prediction at initialisation"),
    ("ahead", "one block ahead", "Innovations: each block against its own last samples"),
)


def heatmap(element_id: str, *, n_layers: int, last_step: int, label: str) -> html.Div:
    """One heatmap, painted by ``45-heatmap.js`` on the canvas ``{element_id}-canvas``."""
    axes = graph(heatmap_axes(n_layers, last_step), element_id, "over-heat")
    canvas = html.Canvas(id=f"{element_id}-canvas", className="heat")
    tip = html.Div(className="heat-tip", hidden=True)
    spoken = {"role": "img", "aria-label": label}
    return html.Div([canvas, axes, tip], className="plot", id=f"{element_id}-plot", **spoken)


def reference_switch() -> html.Span:
    """Buttons that pick what the heatmap compares with."""
    buttons = [
        html.Button(
            label,
            type="button",
            className="view small",
            title=hint,
            **{"data-against": name, "aria-pressed": "true" if not name else "false"},
        )
        for name, label, hint in REFERENCES
    ]
    return html.Span(buttons, className="against", role="group", **{"aria-label": "Compared with"})


def heatmap_switch() -> list[Any]:
    """Buttons that pick the quantity, and the colour scale; the script presses the first one."""
    buttons = [
        html.Button(
            quantity.title,
            type="button",
            className="view small",
            **{"data-heat": quantity.name, "aria-pressed": "false"},
        )
        for quantity in QUANTITIES
    ]
    scale = html.Span(
        [html.Span(className="low"), html.I(className="scale"), html.Span(className="high")],
        className="heat-scale",
    )
    return [*buttons, scale]
