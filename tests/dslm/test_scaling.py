"""DeepScaleLM: unit moments in both directions, at any depth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import dslm
from dslm import Norm, Residual, SpecError
from tests.dslm.specs import kernel, predict, spec_of, stack, with_input


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_deepscale_keeps_unit_moments_at_any_depth(placement: str, activation: str) -> None:
    lowest = []
    for n_layers in (12, 48, 192):
        decoder = stack(n_layers, 16, 128, placement=placement, activation=activation, p_drop=0.1)
        p = predict(dslm.apply_scaling(decoder, dslm.deepscale(decoder)))
        np.testing.assert_allclose(p.forward.variance, 1.0, atol=0.01)
        lowest.append(p.backward.variance.min())
        assert p.backward.variance.max() < 1.05

    # tokens' gradients are independent here, so attention passes little: a constant, not a rate
    assert min(lowest) > 0.3
    assert max(lowest) / min(lowest) < 1.15


def test_relu_feed_forward_has_the_closed_form_of_the_paper() -> None:
    decoder = stack(4, d=64, activation="relu", p_drop=0.2)
    scaling = dslm.deepscale(decoder).blocks[0]
    d_ff = 128
    assert 64 * d_ff * scaling.up**2 * scaling.down**2 == pytest.approx(2 * (1 - 0.2), rel=1e-4)


def test_amplitudes_follow_two_over_depth_and_stay_sane_when_shallow() -> None:
    lam, beta = dslm.residual_amplitudes(200, count="blocks")
    assert (lam**2, beta**2) == pytest.approx((0.99, 0.01))
    assert dslm.residual_amplitudes(1) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))
    with pytest.raises(SpecError):
        dslm.residual_amplitudes(0)


def scaled(n_layers: int, placement: str = "pre", **residual: float) -> dslm.StackPrediction:
    decoder = stack(n_layers, 16, 64, placement=placement, std=0.12, causal=False)
    blocks = []
    for index, block in enumerate(decoder.blocks):
        assert block is not None
        gain = residual.get("norm_gain", 0.0) * (index + 1) ** -0.5 or 1.0
        norm = replace(block.attention_norm, eps=0.0, gain_mean=gain)
        amplitudes = Residual(residual.get("lam", 1.0), residual.get("beta", 1.0))
        blocks.append(
            replace(
                block,
                attention_norm=norm,
                feed_forward_norm=norm,
                attention_residual=amplitudes,
                feed_forward_residual=amplitudes,
            )
        )
    return predict(replace(decoder, blocks=tuple(blocks)))


def test_deepnorm_is_a_post_ln_branch_scaled_down() -> None:
    alpha = (2 * 8) ** 0.25
    up, down = scaled(8, "post", lam=alpha), scaled(8, "post", beta=1 / alpha)
    np.testing.assert_allclose(up.forward.correlation, down.forward.correlation)
    np.testing.assert_allclose(up.backward.variance, down.backward.variance)


@pytest.mark.parametrize("beta", ["gpt2", "depth_mup"])
def test_branches_of_one_over_root_depth_end_at_the_same_variance(beta: str) -> None:
    ends = []
    for n_layers in (12, 48):
        share = 2 * n_layers if beta == "gpt2" else n_layers
        ends.append(scaled(n_layers, beta=share**-0.5).forward.variance[-1])
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


def test_layer_norm_scaling_makes_the_stream_grow_with_the_logarithm_of_depth() -> None:
    plain = np.diff(scaled(64).forward.variance)
    damped = np.diff(scaled(64, norm_gain=1.0).forward.variance)
    assert plain[-1] == pytest.approx(plain[31], rel=0.1)
    assert damped[-1] < 0.6 * damped[31]


def test_deepscale_refuses_a_block_that_is_not_understood() -> None:
    decoder = stack(2)
    with pytest.raises(SpecError) as raised:
        dslm.deepscale(spec_of(replace(decoder, blocks=(decoder.blocks[0], None))))
    assert raised.value.field == "blocks[1]"


def test_embedding_kernel_matches_zipf_draws(rng: np.random.Generator) -> None:
    weights = 1 / np.arange(1, 101)
    weights /= weights.sum()
    ids = rng.choice(100, size=(2, 1_000_000), p=weights)

    embedded = dslm.embedding_kernel(8, 100, token_var=2.0, position_var=1.0, p_drop=0.5)

    assert dslm.same_token_probability(100) == pytest.approx((ids[0] == ids[1]).mean(), rel=0.02)
    assert embedded.diagonal == pytest.approx(6.0)
    assert embedded.off_diagonal[0, 1] == pytest.approx(2 * dslm.same_token_probability(100))


def test_normed_embedding_kernel_has_unit_variance() -> None:
    embedded = dslm.embedding_kernel(
        8, 100, token_var=4e-4, segment_var=4e-4, layer_norm=Norm("layernorm", eps=0.0), d_model=64
    )
    assert embedded.diagonal == pytest.approx(1.0)
    assert predict(with_input(stack(1), kernel(8))).forward.variance[0] == pytest.approx(1.0)


def test_embedding_kernel_refuses_impossible_sizes() -> None:
    for how in ({"seq_len": 0, "vocabulary": 9}, {"seq_len": 4, "vocabulary": 0}):
        with pytest.raises(SpecError):
            dslm.embedding_kernel(**how, token_var=1.0)
    with pytest.raises(SpecError):
        dslm.embedding_kernel(4, 9, token_var=1.0, p_drop=1.0)
