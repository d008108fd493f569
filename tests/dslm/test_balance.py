"""Forms of DeepScaleLM: scalar, on kernels, and balanced between the branches."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dslm
from dslm import CrossAttention, ModelSpec, SpecError, Stack
from dslm.balance import LEAST_SHARE, MOST_SHARE, amplitudes, backward_gains, balanced_shares
from dslm.kernels.alignment import ISOTROPIC
from dslm.kernels.block import block_backward, block_forward
from dslm.kernels.grid import prepare
from tests.dslm.specs import block, kernel, predict, stack

PLACEMENTS = ("pre", "post", "sandwich", "branch", "parallel")
gains = st.lists(st.floats(0.0, 4.0), min_size=2, max_size=3)


def scaled(decoder: Stack, form: str) -> dslm.StackPrediction:
    return predict(dslm.apply_scaling(decoder, dslm.deepscale(decoder, form=form)))  # type: ignore[arg-type]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_keeps_unit_forward_variance(placement: str) -> None:
    for form in ("kernel", "balanced"):
        decoder = stack(12, 12, 128, placement=placement, p_drop=0.1)
        np.testing.assert_allclose(scaled(decoder, form).forward.variance, 1.0, atol=0.015)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("gated", [False, True])
def test_balanced_gradients_drift_less(placement: str, gated: bool) -> None:
    decoder = stack(12, 12, 128, placement=placement, gated=gated, activation="silu")
    even, balanced = (
        np.abs(np.log(scaled(decoder, form).backward.variance)).max()
        for form in ("kernel", "balanced")
    )
    assert balanced < 0.7 * even + 0.03
    assert balanced < math.log(2)


def test_moments_are_the_same_at_a_thousand_layers_as_at_forty_eight() -> None:
    ends = []
    for n_layers in (48, 1000):
        decoder = stack(n_layers, 6, 64, placement="post", activation="relu")
        prediction = scaled(decoder, "kernel")
        np.testing.assert_allclose(prediction.forward.variance, 1.0, atol=0.01)
        ends.append(prediction.backward.variance[0])
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "identity"])
def test_a_gated_unit_doubles_the_gradient_at_least(activation: str) -> None:
    decoder = stack(1, 8, 128, gated=True, activation=activation)
    (gated_block,) = dslm.apply_scaling(decoder, dslm.deepscale(decoder)).blocks
    assert gated_block is not None
    layer = block_forward(prepare(decoder.input_kernel), gated_block, 128)
    top = prepare(kernel(8, corr=0.0))

    _, through_gate = backward_gains(gated_block, block_backward(top, layer, ISOTROPIC).stream)

    # d = 128: the norm's projection and the scatter of its length are a few 1/d
    assert through_gate > 2 * (1 - 6 / 128)
    if activation in ("relu", "identity"):  # homogeneous: exactly two paths of gain one
        assert through_gate == pytest.approx(2, rel=6 / 128)


@given(gains)
def test_shares_stay_in_bounds_and_never_raise_the_drift(branch_gains: list[float]) -> None:
    shares = balanced_shares(branch_gains)

    slope = np.array(branch_gains) - 1
    assert all(LEAST_SHARE <= w <= MOST_SHARE for w in shares)
    assert abs(slope @ np.array(shares)) <= abs(slope.sum()) + 1e-12


def test_opposite_gains_cancel_and_unit_gains_change_nothing() -> None:
    assert balanced_shares([1.0, 1.0]) == [1.0, 1.0]
    lost, won = balanced_shares([0.5, 2.0])
    assert lost * (0.5 - 1) + won * (2.0 - 1) == pytest.approx(0, abs=0.05)
    assert lost > 1 > won


@given(st.lists(st.floats(0.001, 0.3), min_size=2, max_size=3), st.booleans())
def test_amplitudes_keep_a_unit_stream(squares: list[float], parallel: bool) -> None:
    variance = 1.0
    for step in amplitudes(squares, parallel=parallel):
        variance = step.lam**2 * variance + step.beta**2
    assert variance == pytest.approx(1)


def test_the_simplified_form_has_one_standard_deviation_for_all_layers() -> None:
    decoder = stack(6, 16, 64, p_drop=0.1, activation="relu")
    simple = dslm.deepscale(decoder, form="simplified").blocks
    layered = dslm.deepscale(decoder, form="per-layer").blocks

    assert len({b.value for b in simple}) == 1
    r = 0.3 + 0.7 / 16
    assert simple[0].value == pytest.approx(((1 - 0.1) ** 2 / r) ** 0.25 / 64**0.5)
    # correlation grows with depth, so less is needed for unit variance
    assert all(b.value > a.value for a, b in zip(layered[1:], layered, strict=False))


@pytest.mark.parametrize("placement", ["sandwich", "branch"])
def test_a_norm_on_the_branch_makes_sigma_irrelevant(placement: str) -> None:
    decoder = stack(4, 12, 128, placement=placement)
    scaling = dslm.deepscale(decoder)
    bigger = replace(
        scaling,
        blocks=tuple(replace(b, output=3 * b.output, down=3 * b.down) for b in scaling.blocks),
    )
    small, large = (predict(dslm.apply_scaling(decoder, s)) for s in (scaling, bigger))
    np.testing.assert_allclose(large.forward.variance, small.forward.variance, rtol=1e-4)
    np.testing.assert_allclose(large.backward.variance, small.backward.variance, rtol=1e-4)


def translator(n_layers: int) -> ModelSpec:
    plain = block(64, activation="relu")
    cross = CrossAttention(
        replace(plain.attention, causal=False), plain.attention_norm, plain.attention_residual
    )
    encoder = stack(n_layers, 8, 64, causal=False, activation="relu")
    decoder = stack(n_layers, 8, 64, activation="relu")
    blocks = tuple(replace(b, cross=cross) for b in decoder.blocks if b is not None)
    decoder = replace(decoder, blocks=blocks, reads="encoder")
    return ModelSpec("custom", {"encoder": encoder, "decoder": decoder})


@pytest.mark.parametrize("form", ["kernel", "balanced"])
def test_both_stacks_of_an_encoder_decoder_keep_unit_variance(form: str) -> None:
    spec = translator(8)
    scalings = dslm.deepscale_stacks(spec, form=form)  # type: ignore[arg-type]

    stacks = {name: dslm.apply_scaling(s, scalings[name]) for name, s in spec.stacks.items()}
    predicted = dslm.predict(replace(spec, stacks=stacks)).stacks

    for curve in predicted.values():
        np.testing.assert_allclose(curve.forward.variance, 1.0, atol=0.015)
    assert len(scalings["decoder"].blocks[0].residuals) == 3
    assert scalings["decoder"].beta ** 2 == pytest.approx(2 / 3 / 8)


def test_unknown_forms_and_empty_inputs_are_named() -> None:
    decoder = stack(2)
    with pytest.raises(SpecError, match="form"):
        dslm.deepscale(decoder, form="best")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="blocks"):
        dslm.deepscale(replace(decoder, blocks=()))
    with pytest.raises(SpecError, match="not all zero"):
        dslm.deepscale(replace(decoder, input_kernel=kernel(8, var=0.0)))
