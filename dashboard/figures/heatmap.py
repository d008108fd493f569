"""The frame of the heatmap steps × layers; the cells are painted on a canvas beneath it."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboard import theme


def heatmap_frame(n_layers: int, last_step: int) -> go.Figure:
    """Axes in steps and layers over an empty plot.

    A step costs one canvas column instead of a redraw of the whole matrix, which is what keeps
    a live page of many layers cheap; so this figure has an invisible trace to hold the axes.
    """
    figure = go.Figure(layout=theme.layout(margin=theme.TIMELINE_MARGINS, hovermode=False))
    figure.add_trace(go.Scatter(x=[None], y=[None], meta="frame:0", hoverinfo="skip"))
    figure.update_layout(
        xaxis=theme.axis("", range=[0, max(last_step, 1)], showgrid=False, nticks=12),
        yaxis=theme.axis("layer", range=[-0.5, n_layers + 0.5], showgrid=False, nticks=6),
    )
    return figure
