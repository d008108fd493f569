"""The innovations of one step over blocks, with the bands that they should lie in."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboard import theme

EDGE = {"width": 1.2, "color": theme.PREDICTED, "dash": "7px,4px", "shape": "hvh"}


def innovation_profile(n_blocks: int) -> go.Figure:
    """Bars and the edges of their bands, empty; the script fills them for the step on show."""
    x = theme.axis("block", range=[-0.6, max(n_blocks, 1) - 0.4], nticks=6)
    y = theme.axis("innovation", nticks=5, zeroline=True, zerolinewidth=1)
    figure = go.Figure(layout=theme.layout(bargap=0.25, xaxis=x, yaxis=y))
    bars = go.Bar(
        x=[],
        y=[],
        marker={"color": theme.MEASURED},
        meta="innovation",
        hovertemplate="%{y:+.3g}<extra></extra>",
    )
    figure.add_trace(bars)
    for edge in ("low", "high"):
        line = go.Scatter(
            x=[],
            y=[],
            mode="lines",
            line=EDGE,
            meta=edge,
            hovertemplate=f"{edge} %{{y:+.3g}}<extra></extra>",
        )
        figure.add_trace(line)
    return figure
