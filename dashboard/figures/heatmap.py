"""The axes of the heatmap steps × layers; the cells are painted on a canvas beneath them."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboard import theme


def heatmap_axes(n_layers: int, last_step: int) -> go.Figure:
    """Axes in steps and layers over an empty plot.

    Plotly redraws a heatmap's whole matrix for each new step; a canvas gains one column. The
    figure's only trace is invisible, and there because Plotly draws no axes without one.
    """
    figure = go.Figure(layout=theme.layout(margin=theme.TIMELINE_MARGINS, hovermode=False))
    figure.add_trace(go.Scatter(x=[None], y=[None], meta="axes:0", hoverinfo="skip"))
    figure.update_layout(
        xaxis=theme.axis("", range=[0, max(last_step, 1)], showgrid=False, nticks=12),
        yaxis=theme.axis("layer", range=[-0.5, n_layers + 0.5], showgrid=False, nticks=6),
    )
    return figure
