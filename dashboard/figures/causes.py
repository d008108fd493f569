"""Why a stack differs from its first description: a stacked bar over depth, in decades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard import theme
from dashboard.vectors import Vector

# One colour a cause: told apart in pairs that stand beside each other, on both surfaces.
CAUSE_COLOURS = (
    "#2f7fd6",
    "#d9722b",
    "#14937a",
    "#b05ec4",
    "#a8842c",
    "#5b9a2f",
    "#cf5f86",
    "#6f83a6",
    "#8d8d8d",
)


def causes_chart(
    terms: Mapping[str, Vector], total: Vector, colours: Mapping[str, str]
) -> go.Figure:
    """Terms over blocks, each of shape (blocks,), stacked from 0 both ways; their sum as a line.

    NaN is a block that has no number, and leaves a gap.
    """
    x = theme.axis("block", range=[-0.6, max(len(total), 1) - 0.4], nticks=8)
    y = theme.axis("log₁₀", nticks=6, zeroline=True, zerolinewidth=1)
    figure = go.Figure(layout=theme.layout(barmode="relative", bargap=0.25, xaxis=x, yaxis=y))
    for name, values in terms.items():
        bar = go.Bar(
            x=np.arange(len(values)),
            y=values,
            name=name,
            marker={"color": colours[name]},
            meta=f"cause:{name}",
            hovertemplate=f"{name} %{{y:+.2f}}<extra></extra>",
        )
        figure.add_trace(bar)
    line = go.Scatter(
        x=np.arange(len(total)),
        y=total,
        name="together",
        mode="markers",
        marker={"size": 7, "symbol": "diamond", "color": theme.PREDICTED},
        meta="total",
        hovertemplate="together %{y:+.2f}<extra></extra>",
    )
    figure.add_trace(line)
    return figure


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each cause, in their order; they begin anew after the last."""
    return {name: CAUSE_COLOURS[i % len(CAUSE_COLOURS)] for i, name in enumerate(names)}
