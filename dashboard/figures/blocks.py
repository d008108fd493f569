"""What is measured inside the blocks, layer by layer; the theory has no curve for these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dashboard import theme
from dashboard.display.axes import axis_range, log_ticks
from dashboard.figures.markers import marker_trace
from dashboard.vectors import Vector


@dataclass(frozen=True, slots=True)
class BlockChart:
    """One chart: its heading, its axis, and the series it draws (``site/quantity``: name)."""

    title: str
    note: str
    symbol: str
    series: dict[str, str]
    log: bool = False


BLOCK_CHARTS = (
    BlockChart(
        "Branch variance",
        "before the addition",
        "σ²<sub>f</sub>",
        {"attention/variance": "attention", "feed_forward/variance": "feed-forward"},
        log=True,
    ),
    BlockChart("Largest attention logit", "max of q·k", "max", {"attention_logits/max": "max"}),
    BlockChart(
        "Attention logit variance",
        "of q·k",
        "σ²",
        {"attention_logits/variance": "variance"},
        log=True,
    ),
    BlockChart(
        "Attention entropy", "0 = one token", "nats", {"attention_logits/entropy": "entropy"}
    ),
)


def block_chart(chart: BlockChart, curves: Sequence[tuple[str, Vector]]) -> go.Figure:
    """The named curves over layers, each of shape (layers,); non-finite layers marked in red."""
    limits = axis_range([values for _, values in curves], chart.log)
    scale = "log" if chart.log else "linear"
    y = theme.axis(chart.symbol, type=scale, range=list(limits), nticks=6)
    if chart.log:
        y["tickvals"], y["ticktext"] = log_ticks(*limits)
    depth = max([1, *(len(values) for _, values in curves)])
    x = theme.axis("layer", range=[-0.5, depth - 0.5], nticks=8)
    figure = go.Figure(layout=theme.layout(xaxis=x, yaxis=y))
    # No chart has more curves than there are colours.
    for (name, values), colour in zip(curves, theme.RUN_COLOURS, strict=False):
        markers = marker_trace(values, limits, log=chart.log)
        figure.add_traces([_curve(name, values, colour), markers])
    return figure


def _curve(name: str, values: Vector, colour: str) -> go.Scatter:
    return go.Scatter(
        x=np.arange(len(values)),
        y=values,
        name=name,
        mode="lines+markers",
        line={"width": 2, "color": colour},
        marker={"size": 4, "color": colour},
        hovertemplate=f"{name} %{{y:.3g}}<extra></extra>",
    )
