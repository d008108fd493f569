"""Charts on a card, with their heading in HTML so that it reads before the chart is drawn."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from dash import dcc, html

CONFIG = {"displayModeBar": False, "responsive": True, "doubleClick": False}


def graph(figure: go.Figure, element_id: str) -> dcc.Graph:
    """A chart without a toolbar, whose height is known before it is drawn."""
    height = f"{figure.layout.height}px"
    return dcc.Graph(id=element_id, figure=figure, config=CONFIG, style={"height": height})


def chart_card(
    title: str,
    note: str,
    body: Any,
    *,
    side: Any = None,
) -> html.Section:
    """A chart under its heading; `side` is what stands at the right of the heading."""
    heading = html.Header(
        [html.H2(title), html.Span(note, className="quiet"), html.Span(side, className="side")]
    )
    return html.Section([heading, body], className="card chart")


def legend() -> html.Div:
    """What each line style means, the same on every page."""
    entries = [
        ("key key-measured", "measured"),
        ("key key-predicted", "predicted at initialisation, with its band"),
        ("key key-today", "predicted from today's weights"),
        ("key key-alarm", "NaN or Inf"),
    ]
    return html.Div(
        [html.Span([html.I(className=mark), word]) for mark, word in entries], className="legend"
    )
