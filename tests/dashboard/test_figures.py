from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest

from dashboard.display.quantities import CORRELATION, GRADIENT, QUANTITIES, VARIANCE, Quantity
from dashboard.figures import (
    BLOCK_CHARTS,
    DepthColumn,
    ScalarRun,
    block_chart,
    depth_chart,
    heatmap_axes,
    scalar_chart,
    series_over_layers,
    series_over_steps,
    shown_layers,
    sparkline_uri,
)
from dashboard.figures.depth import difference
from tests.dashboard.samples import alert


def column(values: list[float], **changes: object) -> DepthColumn:
    y = np.array(values)
    drawn = {"predicted": y, "low": y / 2, "high": y * 2, "today": y * 1.5, **changes}
    return DepthColumn(measured=y, **drawn)


def trace(figure: go.Figure, role: str) -> go.Scatter:
    return next(scatter for scatter in figure.data if scatter.meta == role)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_depth_chart_has_layers_below_and_the_symbol_beside(quantity: Quantity) -> None:
    figure = depth_chart(quantity, [column([1.0, 2.0, 4.0])])

    assert figure.layout.xaxis.title.text == "layer"
    assert figure.layout.yaxis.title.text == quantity.symbol
    assert figure.layout.yaxis.type == ("linear" if quantity is CORRELATION else "log")


def test_depth_chart_shows_measured_solid_over_two_predictions_dashed_differently() -> None:
    figure = depth_chart(VARIANCE, [column([1.0, 2.0, 4.0])])

    assert trace(figure, "measured:0").line.dash is None
    dashes = {trace(figure, f"{role}:0").line.dash for role in ("predicted", "today")}
    assert len(dashes) == 2 and None not in dashes
    assert trace(figure, "high:0").fill == "tonexty"


def test_depth_chart_marks_nan_and_inf_at_their_layers_in_words() -> None:
    figure = depth_chart(VARIANCE, [column([1.0, np.nan, np.inf, 0.0], predicted=np.ones(4))])

    marks = trace(figure, "marks:0")
    assert list(marks.x) == [1, 2, 3]
    assert list(marks.text) == ["NaN", "+Inf", "0"]


def test_depth_chart_keeps_marks_inside_the_axis() -> None:
    figure = depth_chart(VARIANCE, [column([1.0, np.nan, 100.0], predicted=np.ones(3))])

    low, high = figure.layout.yaxis.range
    assert low < np.log10(trace(figure, "marks:0").y[0]) < high


def test_depth_chart_without_steps_is_empty_but_drawn() -> None:
    figure = depth_chart(GRADIENT, [DepthColumn()])

    assert len(trace(figure, "measured:0").x) == 0
    assert figure.layout.yaxis.range is not None


def test_comparison_locks_the_axes_of_all_runs_together() -> None:
    figure = depth_chart(VARIANCE, [column([1.0, 2.0]), column([10.0, 20.0])], difference=True)

    assert figure.layout.yaxis2.matches == "y"
    assert figure.layout.yaxis3.matches is None
    assert figure.layout.yaxis3.type != "log"


def test_comparison_draws_the_difference_to_the_first_run() -> None:
    figure = depth_chart(VARIANCE, [column([1.0, 2.0]), column([4.0, 4.0])], difference=True)

    assert list(trace(figure, "difference1:2").y) == [2.0, 1.0]


def test_difference_of_correlations_is_plain() -> None:
    gap = difference(CORRELATION, np.array([0.5]), np.array([0.2]))

    assert gap == pytest.approx([0.3])


def test_difference_of_runs_of_other_depth_is_empty() -> None:
    assert len(difference(VARIANCE, np.ones(3), np.ones(4))) == 0


def test_scalar_chart_marks_losses_that_are_not_finite() -> None:
    run = ScalarRun(np.arange(4.0), np.array([3.0, 2.0, np.nan, np.inf]), np.full(4, 1e-3))

    assert list(trace(scalar_chart([run]), "marks:0").x) == [2, 3]


def test_scalar_chart_marks_alerts_at_their_step_with_their_title() -> None:
    vanished = alert(step=21, title="Gradients vanish", severity="critical")

    marks = trace(scalar_chart([ScalarRun()], [vanished]), "alerts:0")

    assert list(marks.x) == [21] and list(marks.text) == ["Gradients vanish"]


def test_scalar_chart_draws_learning_rate_on_its_own_axis() -> None:
    figure = scalar_chart([ScalarRun(np.arange(2.0), np.ones(2), np.ones(2))])

    assert trace(figure, "learning_rate:0").yaxis == "y2"
    assert figure.layout.yaxis2.title.text == "lr"


def test_heatmap_axes_span_every_layer_and_step() -> None:
    figure = heatmap_axes(48, 999)

    assert list(figure.layout.yaxis.range) == [-0.5, 48.5]
    assert list(figure.layout.xaxis.range) == [0, 999]


def test_block_chart_draws_each_branch_and_marks_nan() -> None:
    curves = [("attention", np.array([1.0, np.nan])), ("feed-forward", np.array([2.0, 3.0]))]

    figure = block_chart(BLOCK_CHARTS[0], curves)

    assert [line.name for line in figure.data if line.name] == ["attention", "feed-forward"]
    labels = [list(markers.text) for markers in figure.data if markers.text is not None]
    assert labels == [["NaN"], []]


def test_sparkline_lifts_the_pen_where_the_loss_is_not_finite() -> None:
    assert sparkline_uri([3.0, 2.0, 1.0]).count("M") == 1
    assert sparkline_uri([3.0, np.nan, 1.0, None, 2.0]).count("M") == 3


def test_sparkline_of_nothing_is_an_empty_picture() -> None:
    assert "path" not in sparkline_uri([np.nan, None])


def test_any_series_is_drawn_over_layers_and_over_steps() -> None:
    values = np.outer(10.0 ** np.arange(4), np.arange(1.0, 14.0))

    depth, steps = series_over_layers("rms", values[0]), series_over_steps(np.arange(4.0), values)

    assert list(depth.data[0].y) == list(values[0])
    assert depth.layout.yaxis.type == "linear" and steps.layout.yaxis.type == "log"
    assert [line.name for line in steps.data] == [f"layer {at}" for at in (0, 2, 5, 7, 10, 12)]
    assert list(steps.data[-1].y) == list(values[:, 12])


def test_a_series_of_nothing_but_nan_is_an_empty_chart() -> None:
    figure = series_over_steps(np.arange(3.0), np.full((3, 2), np.nan))

    assert np.isnan(figure.data[0].y).all()


def test_a_series_of_one_value_has_one_line() -> None:
    assert shown_layers(1) == [0]
    assert [line.name for line in series_over_steps(np.arange(2.0), np.ones((2, 1))).data] == [
        "value"
    ]
