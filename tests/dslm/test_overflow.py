"""Numbers that leave float64: infinite and named, never silently NaN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dslm
from dslm import Block, ModelSpec, Stack
from dslm.components import Moments, gelu
from tests.dslm.specs import kernel, spec_of, stack, with_input

PLACEMENTS = get_args(dslm.Placement)
WEIGHTS = ("query", "key", "value", "output", "up", "down")


def heated(block: Block, where: str, weight_var: float) -> Block:
    """`block` with one matrix's entries of another variance."""
    part = "feed_forward" if where in ("up", "down") else "attention"
    layer = getattr(block, part)
    larger = replace(getattr(layer, where), weight_var=weight_var)
    return replace(block, **{part: replace(layer, **{where: larger})})


def with_hot_block(decoder: Stack, index: int, where: str, weight_var: float) -> Stack:
    blocks = list(decoder.blocks)
    block = blocks[index]
    assert block is not None
    blocks[index] = heated(block, where, weight_var)
    return replace(decoder, blocks=tuple(blocks))


def predicted(decoder: Stack) -> tuple[dslm.StackPrediction, list[dslm.Missing]]:
    p = dslm.predict(spec_of(decoder))
    return p.stacks["decoder"], list(p.missing)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("where", WEIGHTS)
def test_overflow_at_depth_is_infinite_from_there_on_and_named(placement: str, where: str) -> None:
    decoder = with_hot_block(stack(6, 6, 16, placement=placement), 3, where, 1e308)

    p, missing = predicted(decoder)

    forward = p.forward.variance
    assert np.isfinite(forward[:4]).all() and np.isposinf(forward[4:]).all()
    assert np.isposinf(p.forward.variance_high[4:]).all()
    assert [m.where for m in missing] == ["decoder.stream[4]", "decoder.stream[5]"]
    assert "forward variance" in missing[0].what and "backward variance" in missing[1].what


def test_overflow_adds_up_over_blocks_of_large_weights() -> None:
    blocks = stack(12, 6, 16, placement="pre").blocks
    hot = []
    for block in blocks:
        assert block is not None
        residual = replace(block.attention_residual, lam=1e30)
        hot.append(replace(block, attention_residual=residual))

    p, missing = predicted(replace(stack(12, 6, 16), blocks=tuple(hot)))

    first = int(np.argmax(np.isposinf(p.forward.variance)))
    assert first in (5, 6)  # 60 decades of variance a block, 308 in all
    assert missing[0].where == f"decoder.stream[{first}]"


def test_gradient_that_overflows_is_infinite_and_named() -> None:
    decoder = stack(3, 6, 16)
    blocks = []
    for block in decoder.blocks:
        assert block is not None
        exact = replace(block.attention_norm, eps=0.0)
        blocks.append(replace(block, attention_norm=exact, feed_forward_norm=exact))
    small = with_input(replace(decoder, blocks=tuple(blocks)), kernel(6, 1e-308))

    p, missing = predicted(with_hot_block(small, 0, "value", 1e6))

    assert np.isfinite(p.forward.variance).all() and np.isfinite(p.backward.variance[1:]).all()
    assert np.isposinf(p.backward.variance[0])
    assert [m.where for m in missing] == ["decoder.stream[0]"]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("where", "weight_var"), [("query", 1e12), ("key", 1e30), ("up", 1e18)])
def test_saturated_parts_keep_finite_moments(placement: str, where: str, weight_var: float) -> None:
    p, missing = predicted(
        with_hot_block(stack(4, 6, 16, placement=placement), 2, where, weight_var)
    )

    assert np.isfinite(p.forward.variance).all() and np.isfinite(p.backward.variance).all()
    assert missing == []


def test_one_hot_scores_no_longer_depend_on_their_scale() -> None:
    hot, hotter = (
        predicted(with_hot_block(stack(3, 8, 32), 1, "query", v))[0].forward.variance
        for v in (1e8, 1e12)
    )
    np.testing.assert_allclose(hot, hotter, rtol=1e-3)


@pytest.mark.parametrize("var", [1e10, 1e16, 1e24])
@pytest.mark.parametrize("corr", [0.0, 0.5, 1.0])
def test_gelu_of_huge_inputs_is_relu(var: float, corr: float) -> None:
    r = corr
    relu = (np.sqrt(1 - r**2) + r * (np.pi - np.arccos(r)) - 1) / (2 * np.pi)
    assert gelu(Moments(0.0, var, corr)).cov_l == pytest.approx(
        relu * var, rel=1e-4, abs=1e-9 * var
    )


def test_numbers_that_were_not_given_stay_unknown_and_are_named() -> None:
    p, missing = predicted(with_hot_block(stack(4, 6, 16), 1, "up", float("nan")))

    assert np.isnan(p.forward.variance[2:]).all()
    assert missing[0].where == "decoder.stream[2]"


def test_an_encoder_that_overflows_leaves_its_decoder_missing_by_name() -> None:
    encoder = with_hot_block(stack(2, 6, 16, causal=False), 1, "value", 1e308)
    decoder = stack(2, 6, 16)
    block = decoder.blocks[0]
    assert block is not None
    attention = replace(block.attention, causal=False)
    cross = dslm.CrossAttention(attention, block.attention_norm, block.attention_residual)
    reading = replace(decoder, blocks=(replace(block, cross=cross),) * 2, reads="encoder")

    p = dslm.predict(ModelSpec("custom", {"encoder": encoder, "decoder": reading}))

    named = {m.where for m in p.missing}
    assert {"encoder.stream[2]", "decoder.blocks[0].cross"} <= named
    assert np.isnan(p.stacks["decoder"].forward.variance[1:]).all()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(PLACEMENTS),
    st.sampled_from(WEIGHTS),
    st.floats(-300, 308),
    st.integers(0, 3),
    st.sampled_from(["relu", "gelu", "silu"]),
)
@example("sandwich", "up", -164.0, 0, "relu")  # what the branch puts out is zero in float64
def test_no_weights_make_a_forward_variance_nan_or_a_gap_unnamed(
    placement: str, where: str, decades: float, index: int, activation: Any
) -> None:
    decoder = stack(
        4, 5, 16, placement=placement, activation=activation, gated=activation == "silu"
    )

    p, missing = predicted(with_hot_block(decoder, index, where, 10.0**decades))

    assert not np.isnan(p.forward.variance).any()
    for curve in (p.forward.variance, p.backward.variance):
        assert np.isfinite(curve).all() or missing
