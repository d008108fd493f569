"""Red markers where a measured curve has a value that the axis cannot show."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from dashboard import theme
from dashboard.display.axes import marker_height, markers
from dashboard.vectors import Vector


def marker_trace(
    values: Vector, limits: tuple[float, float], *, log: bool, **settings: Any
) -> go.Scatter:
    """A marker for each value without a place, just under the upper edge, with the reason."""
    layers, labels = markers(values, log)
    return go.Scatter(
        x=layers,
        y=[marker_height(*limits, log)] * len(layers),
        text=labels,
        mode="markers+text",
        textposition="bottom right",
        textfont={"color": theme.ALARM, "size": 11},
        marker={"symbol": "x", "size": 7, "color": theme.ALARM},
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,  # half of a marker on the first layer lies outside of the axes
        **settings,
    )
