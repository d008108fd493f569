"""Diagnoses of models whose fate is known from predictions made at those very depths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import dslm
from dslm.diagnosis.depth_sweep import coarse
from dslm.diagnosis.score_scale import effective_keys, largest_scores, visible_keys
from tests.dslm.specs import block, kernel, spec_of, stack, with_input


def diagnosis(decoder: dslm.Stack, search: int = 0, **how: float) -> dslm.StackDiagnosis:
    """The diagnosis of a stack, by default without looking deeper than it is."""
    diagnosed = dslm.diagnose(spec_of(decoder), search_depth=search, **how)
    return diagnosed.stacks["decoder"]


def test_pre_ln_grows_linearly_and_its_gradient_hyperbolically() -> None:
    diagnosed = diagnosis(stack(24, std=0.05))

    assert diagnosed.variance is not None and diagnosed.gradient is not None
    assert (diagnosed.variance.law, diagnosed.gradient.law) == ("linear", "hyperbolic")
    assert diagnosed.variance.fits and diagnosed.gradient.fits
    assert diagnosed.sentences[0].startswith("Pre-LN: the gradient's norm grows toward the input")
    assert not diagnosed.advice.needed


def test_post_ln_loses_gradient_exponentially_at_the_rate_of_its_curve() -> None:
    decoder = stack(24, placement="post", std=0.05, causal=False)
    curve = dslm.predict(spec_of(decoder)).stacks["decoder"].backward.variance

    diagnosed = diagnosis(decoder)

    assert diagnosed.variance is not None and diagnosed.variance.law == "constant"
    assert diagnosed.gradient is not None and diagnosed.gradient.law == "exponential"
    per_layer = (curve[-1] / curve[1]) ** (1 / 23)
    assert diagnosed.gradient.factor == pytest.approx(
        per_layer, rel=0.02
    )  # the rate drifts as tokens align
    assert (
        f"by a factor of {diagnosed.gradient.factor**0.5:.3f} per layer" in diagnosed.sentences[0]
    )


def test_gradient_of_a_stack_that_aligns_its_tokens_is_told_in_two_parts() -> None:
    diagnosed = diagnosis(stack(48, placement="post", std=0.09, p_drop=0.1, causal=False))

    assert diagnosed.gradient is not None and not diagnosed.gradient.fits
    assert diagnosed.gradient_below is not None and diagnosed.gradient_below.growth.fits
    assert f"top {diagnosed.gradient_below.top_layers} layers, and below" in diagnosed.sentences[0]


def test_rank_loss_beyond_the_stack_is_where_a_deeper_stack_loses_it() -> None:
    decoder = stack(12, seq_len=64, placement="post", std=0.05, causal=False)
    diagnosed = diagnosis(decoder, search=96)
    assert diagnosed.correlation is not None and diagnosed.correlation.rank_loss.depth is not None
    depth = diagnosed.correlation.rank_loss.depth

    deeper = dslm.predict(dslm.with_depth(spec_of(decoder), depth + 5)).stacks["decoder"].forward

    exact = int(np.flatnonzero(deeper.correlation > 0.99)[0])
    assert depth > 12 and not diagnosed.correlation.rank_loss.within(12)
    assert depth == pytest.approx(exact, abs=2)  # 32 cells of positions in place of 64
    assert f"would pass it at layer {depth}" in diagnosed.sentences[2]


def test_gradient_leaves_fp16_where_a_stack_of_that_depth_does() -> None:
    decoder = stack(12, placement="post", std=0.05, causal=False)
    top = 2.0**-13  # twice fp16's smallest normal value
    fp16 = diagnosis(decoder, search=48, top_gradient_std=top).formats[0]
    depth = fp16.gradient_imprecise.depth
    assert depth is not None and depth > 12

    def bottom(n: int) -> float:
        deeper = dslm.predict(dslm.with_depth(spec_of(decoder), n)).stacks["decoder"]
        return top * float(deeper.backward.variance[0]) ** 0.5

    # the search stops once it moves by no more than 3 % of the depth
    assert bottom(depth + 1) < 2.0**-14 < bottom(depth - 2)


def test_gradient_that_leaves_within_the_stack_is_counted_from_its_top() -> None:
    decoder = stack(48, placement="post", std=0.05, causal=False)
    top = 2.0**-13
    diagnosed = diagnosis(decoder, top_gradient_std=top).formats[0]

    std = top * np.sqrt(dslm.predict(spec_of(decoder)).stacks["decoder"].backward.variance)
    highest = int(np.flatnonzero(std < 2.0**-14)[-1])

    assert diagnosed.gradient_imprecise.depth == 48 - highest
    assert diagnosed.gradients.imprecise == tuple(range(highest + 1))
    assert diagnosed.loss_scale is not None and diagnosed.loss_scale * std.min() >= 2.0**-14


def test_stream_that_doubles_overflows_fp16_where_its_variance_says() -> None:
    loud = replace(block(), attention_residual=dslm.Residual(lam=2.0))
    diagnosed = diagnosis(replace(stack(), blocks=(loud,) * 4), search=32).formats[0]

    assert diagnosed.activation_overflow.depth is not None
    grown = dslm.predict(dslm.with_depth(spec_of(replace(stack(), blocks=(loud,))), 20))
    std = np.sqrt(grown.stacks["decoder"].forward.variance)
    assert diagnosed.activation_overflow.depth == np.flatnonzero(6 * std > 65504)[0]


def test_rank_collapse_is_a_reason_for_deepscale() -> None:
    diagnosed = diagnosis(stack(48, placement="post", std=0.09, causal=False))

    assert diagnosed.advice.needed and diagnosed.advice.scaling is not None
    assert diagnosed.advice.scaling.beta**2 == pytest.approx(2 / 96)
    assert any("0.99" in reason for reason in diagnosed.advice.reasons)
    assert "DeepScaleLM" in diagnosed.sentences[-1]


def test_wide_scores_saturate_and_narrow_ones_do_not() -> None:
    hot, mild = diagnosis(stack(std=0.3)).scores, diagnosis(stack(std=0.02)).scores

    assert hot is not None and hot.meaning == "saturated" and hot.effective_keys < 3
    assert mild is not None and mild.meaning == "near uniform"


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_effective_keys_match_a_softmax_of_normal_scores(std: float) -> None:
    scores = std * torch.randn(2000, 256, generator=torch.Generator().manual_seed(0))
    weights = scores.softmax(dim=1)

    typical = float((1 / weights.square().sum(dim=1)).median())

    # quantiles leave out the scatter of the largest score, which matters as s nears 3.3
    assert effective_keys(std, 256) == pytest.approx(typical, rel=0.12)


def test_keys_seen_are_those_under_the_mask() -> None:
    causal = block().attention

    assert visible_keys(causal, 8) == 4.5
    assert visible_keys(replace(causal, window=2), 8) == pytest.approx(15 / 8)
    assert visible_keys(replace(causal, causal=False), 8) == 8
    assert visible_keys(replace(causal, causal=False, window=1), 8) == pytest.approx(22 / 8)


def test_coarse_positions_change_a_prediction_by_less_than_three_percent() -> None:
    decoder = stack(12, seq_len=192, placement="pre", std=0.08)
    fine = dslm.predict(spec_of(decoder)).stacks["decoder"]

    rough = dslm.predict(spec_of(coarse(decoder))).stacks["decoder"]

    np.testing.assert_allclose(rough.forward.variance, fine.forward.variance, rtol=0.03)
    np.testing.assert_allclose(rough.backward.variance, fine.backward.variance, rtol=0.03)


def with_head(decoder: dslm.Stack) -> dslm.Stack:
    """The stack under a final norm and a mean loss over the labels of 64 classes."""
    n = int(decoder.input_kernel.cell_sizes.sum())
    labels = dslm.Labels(1 / (8 * n), counted=kernel(n, corr=1.0), same=kernel(n, corr=1 / 64))
    output = dslm.Linear(decoder.d_model, 64, 1 / decoder.d_model)
    layers = (dslm.HeadLayer(norm=dslm.Norm("layernorm")),)
    return replace(decoder, head=dslm.Head(layers, output, labels))


def test_top_gradient_is_predicted_where_the_head_is_known() -> None:
    decoder = with_head(stack(3, seq_len=64))
    expected = dslm.predict(spec_of(decoder)).stacks["decoder"].gradient_scale

    top = diagnosis(decoder, search=12).top_gradient  # 64 tokens are put on 32 cells, labels too

    assert (top.source, top.std) == ("predicted", expected**0.5)


def test_part_that_is_not_understood_leaves_the_rest_of_the_diagnosis() -> None:
    gap = replace(stack(6), blocks=(*stack(5).blocks, None))

    diagnosed = diagnosis(gap)

    assert diagnosed.variance is not None and diagnosed.gradient is None
    assert "not predicted above" in diagnosed.sentences[1]
    assert "not predicted" in diagnosed.sentences[0]
    assert diagnosed.advice.scaling is None and "blocks[5]" in diagnosed.advice.refusal
    assert diagnosed.formats == ()
    assert [sentence.count("not judged") for sentence in diagnosed.sentences[-2:]] == [1, 1]


@pytest.mark.parametrize("n_layers", [1, 2])
def test_shallow_stack_is_diagnosed_without_a_law(n_layers: int) -> None:
    diagnosed = diagnosis(stack(n_layers))

    assert diagnosed.variance is None
    assert "so few layers" in diagnosed.sentences[1]


def test_top_gradient_is_a_mean_losss_unless_given() -> None:
    assumed = diagnosis(with_input(stack(), kernel(32))).top_gradient

    assert (assumed.source, assumed.std) == ("assumed", 1 / (8 * 32 * 128**0.5))
    assert diagnosis(stack(), top_gradient_std=0.5).top_gradient.source == "given"


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_top_gradient_names_itself(std: float) -> None:
    with pytest.raises(dslm.SpecError, match="top_gradient_std"):
        diagnosis(stack(), top_gradient_std=std)


def test_no_scores_where_nothing_is_predicted() -> None:
    assert largest_scores(stack(), np.full(3, np.nan)) is None
