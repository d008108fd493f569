"""Loss and learning rate over steps, with a mark at each alert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go

from dashboard import theme
from dashboard.api_types import Alert
from dashboard.vectors import Vector

EMPTY: Vector = np.empty(0)


@dataclass(frozen=True, slots=True)
class ScalarRun:
    """One run's scalars over its sampled steps, each of shape (steps,)."""

    steps: Vector = field(default_factory=lambda: EMPTY)
    loss: Vector = field(default_factory=lambda: EMPTY)
    learning_rate: Vector = field(default_factory=lambda: EMPTY)
    name: str = ""
    colour: str = theme.MEASURED


def scalar_chart(runs: Sequence[ScalarRun], alerts: Sequence[Alert] = ()) -> go.Figure:
    """Loss, and under it the learning rate on a narrow axis of its own, over the same steps.

    A trace's ``meta`` is ``role:run``, by which the script finds it.
    """
    figure = go.Figure(layout=theme.layout(margin=theme.TIMELINE_MARGINS))
    figure.update_layout(
        xaxis=theme.axis("", anchor="free", position=0, nticks=12, range=[0, _last_step(runs)]),
        yaxis=theme.axis("loss", domain=[0.4, 1], nticks=4),
        yaxis2=theme.axis(
            "lr", domain=[0.08, 0.28], nticks=2, exponentformat="e", rangemode="tozero"
        ),
    )
    # The script counts on three traces for each run, and on the alerts coming last.
    for index, run in enumerate(runs):
        figure.add_trace(_loss(run, index))
        figure.add_trace(_nonfinite(run, index))
        figure.add_trace(_learning_rate(run, index, several=len(runs) > 1))
    figure.add_trace(_alert_marks(alerts))
    return figure


def _last_step(runs: Sequence[ScalarRun]) -> float:
    return max([1.0, *(float(run.steps[-1]) for run in runs if len(run.steps))])


def _loss(run: ScalarRun, index: int) -> go.Scatter:
    return go.Scatter(
        x=run.steps,
        y=run.loss,
        mode="lines",
        line={"width": 1.6, "color": run.colour},
        name=run.name,
        meta=f"loss:{index}",
        hovertemplate=f"{run.name + ' ' if run.name else ''}loss %{{y:.4g}}<extra></extra>",
    )


def _nonfinite(run: ScalarRun, index: int) -> go.Scatter:
    bad = ~np.isfinite(run.loss)
    finite = run.loss[~bad]
    height = finite.max() if len(finite) else 1.0  # where it stretches the axis by nothing
    return go.Scatter(
        x=run.steps[bad],
        y=np.full(int(bad.sum()), height),
        mode="markers",
        marker={"symbol": "x", "size": 6, "color": theme.ALARM},
        meta=f"marks:{index}",
        hovertemplate="loss is not finite<extra></extra>",
    )


def _learning_rate(run: ScalarRun, index: int, *, several: bool) -> go.Scatter:
    return go.Scatter(
        x=run.steps,
        y=run.learning_rate,
        yaxis="y2",
        mode="lines",
        line={"width": 1.3, "color": run.colour if several else theme.LEARNING_RATE},
        meta=f"learning_rate:{index}",
        hovertemplate="learning rate %{y:.3g}<extra></extra>",
    )


def _alert_marks(alerts: Sequence[Alert]) -> go.Scatter:
    colours = [theme.ALARM if alert.severity == "critical" else theme.WARNING for alert in alerts]
    return go.Scatter(
        x=[alert.step for alert in alerts],
        y=[0.0] * len(alerts),  # the foot of the learning rate's axis, which begins at zero
        text=[alert.title for alert in alerts],
        yaxis="y2",
        mode="markers",
        marker={"symbol": "triangle-up", "size": 10, "color": colours},
        meta="alerts:0",
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
    )
