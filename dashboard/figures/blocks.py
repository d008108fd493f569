"""What is measured inside the blocks, layer by layer; the theory has no curve for these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dashboard import theme
from dashboard.figures.marks import flagged, mark_labels
from dashboard.figures.ranges import axis_range, log_ticks, mark_height
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
    low, high = _limits(chart, curves)
    y = theme.axis(chart.symbol, type="log" if chart.log else "linear", range=[low, high], nticks=6)
    if chart.log:
        y["tickvals"], y["ticktext"] = log_ticks(low, high)
    depth = max([1, *(len(values) for _, values in curves)])
    x = theme.axis("layer", range=[-0.5, depth - 0.5], nticks=8)
    figure = go.Figure(layout=theme.layout(xaxis=x, yaxis=y))
    mark_y = mark_height(low, high, log=chart.log)
    for (name, values), colour in zip(curves, theme.RUN_COLOURS, strict=False):
        figure.add_traces([_curve(name, values, colour), _marks(values, mark_y, log=chart.log)])
    return figure


def _limits(chart: BlockChart, curves: Sequence[tuple[str, Vector]]) -> tuple[float, float]:
    return axis_range([values for _, values in curves], log=chart.log)


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


def _marks(values: Vector, mark_y: float, *, log: bool) -> go.Scatter:
    layers = flagged(values, log=log)
    return go.Scatter(
        x=layers,
        y=np.full(len(layers), mark_y),
        text=mark_labels(values, layers),
        mode="markers+text",
        textposition="bottom right",
        textfont={"color": theme.ALARM, "size": 11},
        marker={"symbol": "x", "size": 7, "color": theme.ALARM},
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
    )
