"""Blocks that are not understood, carried by what was measured around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dslm
from dslm.carried import behind, runs_of
from dslm.errors import SpecError
from dslm.kernels.grid import correlation, mean_diagonal
from dslm.spec import Carried
from tests.dslm.specs import kernel, spec_of, stack


def carried_stack(n: int, unknown: dict[int, Carried]) -> Any:
    whole = stack(n)
    return replace(
        whole,
        blocks=tuple(None if i in unknown else b for i, b in enumerate(whole.blocks)),
        carried=tuple(unknown.get(i) for i in range(n)),
    )


def test_runs_lie_between_carried_blocks() -> None:
    some = Carried(1.0, 0.1, 0.1, 1.0)

    assert runs_of(carried_stack(5, {2: some})) == [(0, 2), (3, 5)]
    assert runs_of(carried_stack(3, {0: some, 1: some})) == [(0, 0), (1, 1), (2, 3)]


def test_measurements_that_are_the_predictions_give_the_whole_curves_back() -> None:
    whole = dslm.predict(spec_of(stack(6))).stacks["decoder"]
    forward, backward = whole.forward, whole.backward
    some = Carried(
        forward.variance[3],
        max(forward.correlation[2], 0),
        max(forward.correlation[3], 0),
        backward.variance[2] / backward.variance[3],
    )

    prediction = dslm.predict(spec_of(carried_stack(6, {2: some})))
    bridged = prediction.stacks["decoder"]

    assert bridged.forward.variance == pytest.approx(forward.variance, rel=0.02)
    assert bridged.forward.correlation == pytest.approx(forward.correlation, abs=0.02)
    assert bridged.backward.variance == pytest.approx(backward.variance, rel=0.06)
    assert np.isnan(bridged.score_variance).tolist() == [False, False, True, False, False, False]
    (missing,) = prediction.missing
    assert (missing.where, missing.what) == ("decoder.blocks[2]", "measured block")


def test_a_measured_stream_is_where_the_curve_goes_on() -> None:
    prediction = dslm.predict(spec_of(carried_stack(4, {1: Carried(50.0, 0.2, 0.6, 3.0)})))
    bridged = prediction.stacks["decoder"]

    assert bridged.forward.variance[2] == pytest.approx(50.0, rel=0.02)
    assert bridged.backward.variance[1] == pytest.approx(3 * bridged.backward.variance[2])
    assert bridged.backward.variance[-1] == 1.0


def test_without_a_measured_gradient_the_forward_curve_goes_on_alone() -> None:
    bridged = dslm.predict(spec_of(carried_stack(3, {1: Carried(2.0, 0.2, 0.2)}))).stacks["decoder"]

    assert np.isfinite(bridged.forward.variance).all()
    assert np.isnan(bridged.backward.variance).tolist() == [True, True, False, False]


@settings(deadline=None, max_examples=30)
@given(st.floats(0.01, 100), st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 0.95))
def test_kernels_behind_stay_kernels(energy: float, before: float, after: float, r: float) -> None:
    y = behind(kernel(8, corr=r), Carried(energy, before, after))

    assert mean_diagonal(y) == pytest.approx(energy)
    assert -1e-9 <= correlation(y) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("carried", "field"),
    [
        ((Carried(1.0, 0.1, 0.1),), "carried"),
        ((None, Carried(1.0, 0.1, 0.1)), r"carried\[1\]"),
        ((Carried(1.0, 2.0, 0.1), None), "common_before"),
        ((Carried(float("inf"), 0.1, 0.1), None), "mean_square"),
    ],
)
def test_impossible_measurements_are_refused_by_field(carried: Any, field: str) -> None:
    whole = stack(2)
    spec = spec_of(replace(whole, blocks=(None, whole.blocks[1]), carried=carried))

    with pytest.raises(SpecError, match=field):
        dslm.predict(spec)


def test_carried_blocks_survive_json() -> None:
    spec = spec_of(carried_stack(3, {1: Carried(2.0, 0.25, 0.5)}))

    again = dslm.spec_from_json(dslm.spec_to_json(spec))

    assert np.isnan(again.stacks["decoder"].carried[1].gradient_gain)  # type: ignore[union-attr]
    assert again.stacks["decoder"].carried[0] is None
