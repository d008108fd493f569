"""Loss and learning rate over steps, with a mark at each alert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard import theme
from dashboard.vectors import Vector

NOTHING: Vector = np.empty(0)


@dataclass(frozen=True, slots=True)
class ScalarRun:
    """One run's scalars over its sampled steps, each of shape (steps,)."""

    steps: Vector = field(default_factory=lambda: NOTHING)
    loss: Vector = field(default_factory=lambda: NOTHING)
    learning_rate: Vector = field(default_factory=lambda: NOTHING)
    name: str = ""
    colour: str = theme.MEASURED


def scalar_chart(runs: Sequence[ScalarRun], alerts: Sequence[Mapping[str, Any]] = ()) -> go.Figure:
    """Loss on the upper axis, learning rate in a narrow band under it, both over the same steps."""
    figure = go.Figure(layout=theme.layout(margin=theme.TIMELINE_MARGINS))
    figure.update_layout(
        xaxis=theme.axis("", anchor="free", position=0, nticks=12, range=[0, _last_step(runs)]),
        yaxis=theme.axis("loss", domain=[0.4, 1], nticks=4),
        yaxis2=theme.axis(
            "lr", domain=[0.08, 0.28], nticks=2, exponentformat="e", rangemode="tozero"
        ),
    )
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
    height = finite.max() if len(finite) else 1.0
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


def _alert_marks(alerts: Sequence[Mapping[str, Any]]) -> go.Scatter:
    colours = [theme.ALARM if a["severity"] == "critical" else theme.WARNING for a in alerts]
    return go.Scatter(
        x=[a["step"] for a in alerts],
        y=[0.0] * len(alerts),
        text=[a["title"] for a in alerts],
        yaxis="y2",
        mode="markers",
        marker={"symbol": "triangle-up", "size": 10, "color": colours},
        meta="alerts:0",
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
    )
