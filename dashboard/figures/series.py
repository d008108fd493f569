"""Any series of a run: over layers at one step, and over steps for some of its layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from dashboard import theme
from dashboard.display.axes import axis_range, log_ticks
from dashboard.vectors import Matrix, Vector

LINES = 6  # more than these are hard to tell apart by colour
MANY_TIMES = 30.0  # largest over smallest value from which on an axis is logarithmic
SHALLOW, DEEP = (47, 127, 214), (217, 114, 43)  # colours of the first and the last layer


def series_over_layers(name: str, values: Vector) -> go.Figure:
    """A vector over depth, (layers,), at one step."""
    figure = _figure(values, "layer")
    figure.add_trace(_line(name, np.arange(len(values)), values, theme.MEASURED, "lines+markers"))
    figure.update_xaxes(range=[-0.5, max(1, len(values)) - 0.5])
    return figure


def series_over_steps(steps: Vector, values: Matrix) -> go.Figure:
    """A series over steps, (steps, layers): lines of at most six layers, evenly spread."""
    figure = _figure(values, "step")
    layers = shown_layers(values.shape[1])
    for layer in layers:
        name = "value" if values.shape[1] == 1 else f"layer {layer}"
        colour = colour_of(layer, values.shape[1])
        figure.add_trace(_line(name, steps, values[:, layer], colour, "lines"))
    return figure


def shown_layers(n: int) -> list[int]:
    """The layers that have a line of their own: the first, the last and some between."""
    return sorted({round(place) for place in np.linspace(0, n - 1, min(n, LINES))})


def colour_of(layer: int, n: int) -> str:
    """From blue at the first layer to orange at the last."""
    share = layer / max(n - 1, 1)
    mixed = (round(a + share * (b - a)) for a, b in zip(SHALLOW, DEEP, strict=True))
    return f"rgb({', '.join(map(str, mixed))})"


def _figure(values: Vector | Matrix, across: str) -> go.Figure:
    finite = values[np.isfinite(values)]
    log = bool(len(finite)) and finite.min() > 0 and finite.max() > MANY_TIMES * finite.min()
    y = theme.axis("", type="log" if log else "linear", nticks=6, exponentformat="e")
    if log:
        low, high = axis_range([finite], log=True)
        y["range"] = [low, high]
        y["tickvals"], y["ticktext"] = log_ticks(low, high)
    return go.Figure(layout=theme.layout(xaxis=theme.axis(across, nticks=8), yaxis=y))


def _line(name: str, x: NDArray[Any], y: Vector, colour: str, mode: str) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=np.where(np.isfinite(y), y, np.nan),
        name=name,
        mode=mode,
        line={"width": 1.8, "color": colour},
        marker={"size": 4, "color": colour},
        hovertemplate=f"{name} %{{y:.4~g}}<extra></extra>",
    )
