"""Depth profiles: a quantity over layers, measured over predicted, one column a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go

from dashboard import theme
from dashboard.display.axes import axis_range, log_ticks
from dashboard.display.quantities import Quantity
from dashboard.figures.markers import marker_trace
from dashboard.vectors import Vector

GAP = 0.035  # between columns, as a share of the width
AT_INIT = ("7px,4px", theme.PREDICTED)
FROM_TODAY = ("2px,3px", theme.PREDICTED_TODAY)
AHEAD_WIDTH = 1.8
# Off until they are asked for: with all of them on, none can be followed.
HIDDEN = ("low", "high", "today")
DIGITS = "%{y:.4~g}<extra></extra>"
EMPTY: Vector = np.empty(0)


@dataclass(frozen=True, slots=True)
class DepthColumn:
    """One run's curves of one quantity, each of shape (layers + 1,) or empty.

    Attributes:
        measured: the values of the step on show.
        predicted, low, high: prediction at initialisation and its band.
        today: prediction from today's weights.
        title: written above the column; "" for none.
        colour: of the measured line.
    """

    measured: Vector = field(default_factory=lambda: EMPTY)
    predicted: Vector = field(default_factory=lambda: EMPTY)
    low: Vector = field(default_factory=lambda: EMPTY)
    high: Vector = field(default_factory=lambda: EMPTY)
    today: Vector = field(default_factory=lambda: EMPTY)
    title: str = ""
    colour: str = theme.MEASURED

    @property
    def curves(self) -> tuple[Vector, ...]:
        """Everything that the y axis has to hold before a choice of curves is made."""
        return self.measured, self.predicted


def depth_chart(
    quantity: Quantity,
    columns: Sequence[DepthColumn],
    *,
    difference: bool = False,
) -> go.Figure:
    """Columns side by side on one y range; with `difference`, a last column compares the runs.

    A trace's ``meta`` is ``role:column``, by which the script finds it. Values that the axis
    cannot hold (NaN, Inf, zero on a log axis) are marked in red at their layer.
    """
    n_panels = len(columns) + difference
    figure = go.Figure(layout=theme.layout())
    limits = axis_range([curve for column in columns for curve in column.curves], quantity.log)
    for index, column in enumerate(columns):
        _place(figure, index, n_panels, quantity, limits)
        figure.add_traces(_traces(column, index, limits, log=quantity.log))
    if difference:
        _difference_panel(figure, quantity, columns)
    return figure


def _axis_name(index: int) -> str:
    return "" if index == 0 else str(index + 1)


def _domain(index: int, n: int) -> tuple[float, float]:
    width = (1 - GAP * (n - 1)) / n
    left = index * (width + GAP)
    return left, left + width


def _place(
    figure: go.Figure, index: int, n: int, quantity: Quantity, limits: tuple[float, float]
) -> None:
    name = _axis_name(index)
    left, right = _domain(index, n)
    y = theme.axis(
        quantity.symbol if index == 0 else "",
        type="log" if quantity.log else "linear",
        range=list(limits),
        anchor=f"x{name}",
        showticklabels=index == 0,
        nticks=6,
    )
    if quantity.log:
        y["tickvals"], y["ticktext"] = log_ticks(*limits)
    if index:
        y["matches"] = "y"  # the script sets the first axis, and every run's follows
    x = theme.axis("layer", domain=[left, right], anchor=f"y{name}", nticks=8)
    figure.update_layout({f"xaxis{name}": x, f"yaxis{name}": y})


def _line(
    role: str, column: int, y: Vector, *, name: str, line: dict[str, object], **settings: object
) -> go.Scatter:
    axis = _axis_name(column)
    return go.Scatter(
        x=np.arange(len(y)),
        y=y,
        name=name,
        mode=settings.pop("mode", "lines"),
        line=line,
        meta=f"{role}:{column}",
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
        visible=role not in HIDDEN,
        **settings,
    )


def _traces(
    column: DepthColumn, index: int, limits: tuple[float, float], *, log: bool
) -> list[go.Scatter]:
    axis = _axis_name(index)
    place = {"meta": f"marks:{index}", "xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    # Plotly draws in this order: what is measured lies over what is predicted.
    return [
        *_band(column, index),
        *_ahead(index),
        *_predictions(column, index),
        _measured(column, index),
        marker_trace(column.measured, limits, log=log, name="not finite", **place),
    ]


def _band(column: DepthColumn, index: int) -> list[go.Scatter]:
    edge: dict[str, object] = {"width": 0, "color": theme.BAND}
    filled: dict[str, object] = {"fill": "tonexty", "fillcolor": theme.BAND}
    # "tonexty" fills down to the trace before, so the lower edge comes first.
    return [
        _line("low", index, column.low, name="band", line=edge, hoverinfo="skip"),
        _line("high", index, column.high, name="band", line=edge, hoverinfo="skip", **filled),
    ]


def _ahead(index: int) -> list[go.Scatter]:
    """One block ahead with its band; the script fills it in for each step on show."""
    edge: dict[str, object] = {"width": 0, "color": theme.AHEAD_BAND}
    filled: dict[str, object] = {"fill": "tonexty", "fillcolor": theme.AHEAD_BAND}
    return [
        _line("ahead_low", index, EMPTY, name="band", line=edge, hoverinfo="skip"),
        _line("ahead_high", index, EMPTY, name="band", line=edge, hoverinfo="skip", **filled),
        _line(
            "ahead",
            index,
            EMPTY,
            name="one block ahead",
            line={"width": AHEAD_WIDTH, "color": theme.AHEAD},
            hovertemplate="one block ahead %{y:.4~g}, measured %{text}<extra></extra>",
        ),
    ]


def _predictions(column: DepthColumn, index: int) -> list[go.Scatter]:
    return [
        _line(
            role,
            index,
            values,
            name=name,
            line={"width": 1.3, "dash": dash, "color": colour},
            hovertemplate=f"{name} {DIGITS}",
        )
        for role, name, values, dash, colour in (
            ("predicted", "predicted at initialisation", column.predicted, *AT_INIT),
            ("today", "predicted from today's weights", column.today, *FROM_TODAY),
        )
    ]


def _measured(column: DepthColumn, index: int) -> go.Scatter:
    return _line(
        "measured",
        index,
        column.measured,
        name="measured",
        line={"width": 2.2, "color": column.colour},
        mode="lines+markers",
        marker={"size": 4, "color": column.colour},
        hovertemplate=f"measured {DIGITS}",
    )


def _difference_panel(
    figure: go.Figure, quantity: Quantity, columns: Sequence[DepthColumn]
) -> None:
    index = len(columns)
    _place_difference(figure, index)
    for position, column in enumerate(columns[1:], start=1):
        line: dict[str, object] = {"width": 2, "color": column.colour}
        trace = _line(
            f"difference{position}",
            index,
            difference(quantity, column.measured, columns[0].measured),
            name=column.title,
            line=line,
            hovertemplate="%{y:.2f}<extra></extra>",
        )
        figure.add_trace(trace)


def _place_difference(figure: go.Figure, index: int) -> None:
    name = _axis_name(index)
    left, right = _domain(index, index + 1)
    y = theme.axis(anchor=f"x{name}", side="right", range=[-1, 1], nticks=6)
    y |= {"zeroline": True, "zerolinewidth": 1}
    x = theme.axis("layer", domain=[left, right], anchor=f"y{name}", nticks=8)
    # The ticks are at the right, beyond the margin that the other charts have there.
    figure.update_layout({f"xaxis{name}": x, f"yaxis{name}": y, "margin": {"r": 46}})


def difference(quantity: Quantity, values: Vector, reference: Vector) -> Vector:
    """log2(values / reference) by layer, on a linear axis values − reference.

    Empty for runs of different depth.
    """
    if len(values) != len(reference):
        return EMPTY
    with np.errstate(all="ignore"):
        return np.asarray(np.log2(values / reference) if quantity.log else values - reference)
