"""What holds of every scalar formula: possible moments, linear gradients, scales, composition."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dslm.components as theory
from dslm import Activation
from dslm.components import AttentionHead, GradMoments, Moments

ACTIVATIONS = get_args(Activation)
HEAD = AttentionHead(40, 24, 8, 24, 0.02, 0.02, 0.05, 0.1)
UP = Moments(0.0, 0.7, 0.4)
BRANCH, GRAD_BRANCH = Moments(0.5, 1.7, 0.2), GradMoments(0.3, 0.6)

FORWARD: dict[str, Callable[[Moments], Moments]] = {
    "relu": theory.relu,
    "gelu": theory.gelu,
    **{f"activation {a}": lambda x, a=a: theory.activation(x, a) for a in ACTIVATIONS},
    **{f"gated {a}": lambda x, a=a: theory.gated(x, UP, a) for a in ACTIVATIONS},
    "gated by up": lambda x: theory.gated(UP, x, "silu"),
    "linear": lambda x: theory.linear(x, d_in=12, weight_var=0.2),
    "dropout": lambda x: theory.dropout(x, p_drop=0.3),
    "residual": lambda x: theory.residual(x, BRANCH, lam=0.9, beta=0.5),
    "layer_norm": lambda x: theory.layer_norm(x, d_model=32),
    "rms_norm": lambda x: theory.rms_norm(x, d_model=32),
    "gain": lambda x: theory.gain(x, gain_mean=0.8, gain_var=0.1, bias_var=0.2),
    "softmax": lambda x: theory.softmax(x, seq_len=50),
    "attention": lambda x: theory.attention(x, HEAD),
    "multi_head": lambda x: theory.multi_head(x, HEAD, n_heads=3, output_var=0.1),
    "embedding": lambda x: theory.embedding((x.var, 0.5), (x.corr_l, 2 / 3)),
    "patch_embedding": lambda x: theory.patch_embedding(
        x, d_patch=48, weight_var=0.01, n_patches=9, class_var=0.1, position_var=0.2
    ),
}
BACKWARD: dict[str, Callable[[GradMoments, Moments], GradMoments]] = {
    "relu_backward": theory.relu_backward,
    "gelu_backward": theory.gelu_backward,
    **{
        f"activation_backward {a}": lambda g, x, a=a: theory.activation_backward(g, x, a)
        for a in ACTIVATIONS
    },
    **{
        f"gated_backward {a}": lambda g, x, a=a: theory.gated_backward(g, x, UP, a)[0]
        for a in ACTIVATIONS
    },
    "gated_backward to up": lambda g, x: theory.gated_backward(g, x, UP, "silu")[1],
    "linear_backward": lambda g, _: theory.linear_backward(g, d_out=12, weight_var=0.2),
    "dropout_backward": lambda g, _: theory.dropout_backward(g, p_drop=0.3),
    "residual_backward": lambda g, _: theory.residual_backward(
        g, GradMoments(0.5 * g.var, 0.5 * g.corr_l), lam=0.9, beta=0.5
    ),
    "layer_norm_backward": lambda g, x: theory.layer_norm_backward(g, x, d_model=32),
    "rms_norm_backward": lambda g, x: theory.rms_norm_backward(g, x, d_model=32),
    "gain_backward": lambda g, _: theory.gain_backward(g, gain_mean=0.8, gain_var=0.1),
    "softmax_backward": lambda g, x: theory.softmax_backward(g, x, seq_len=50),
    "attention_backward": lambda g, x: theory.attention_backward(g, x, HEAD),
    "multi_head_backward": lambda g, x: theory.multi_head_backward(
        g, x, HEAD, n_heads=3, output_var=0.1
    ),
}
IN_TEST_HEAD = {"cross_entropy", "cross_entropy_backward"}  # of a loss: no gradient above them
variances = st.floats(1e-4, 1e3)
correlations = st.floats(0.0, 1.0)
signals = st.builds(Moments, st.just(0.0), variances, correlations)
gradients = st.builds(GradMoments, variances, correlations)


def assert_same(a: Moments | GradMoments, b: Moments | GradMoments, rel: float = 1e-6) -> None:
    assert (a.var, a.corr_l) == pytest.approx((b.var, b.corr_l), rel=rel, abs=1e-9)


def test_every_public_formula_is_among_those_below() -> None:
    public = {n for n in theory.__all__ if inspect.isfunction(getattr(theory, n))}
    assert public == {name.split()[0] for name in (*FORWARD, *BACKWARD)} | IN_TEST_HEAD


@settings(max_examples=20, deadline=None)
@given(signals, gradients)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_formula_gives_possible_moments(name: str, x: Moments, g: GradMoments) -> None:
    out = FORWARD[name](x) if name in FORWARD else BACKWARD[name](g, x)

    assert math.isfinite(out.var) and out.var >= 0
    assert abs(out.corr_l) <= 1 + 1e-9


@settings(max_examples=20, deadline=None)
@given(signals, gradients, st.floats(1e-3, 1e3))
@pytest.mark.parametrize("name", BACKWARD)
def test_gradient_below_scales_with_the_one_above(
    name: str, x: Moments, g: GradMoments, factor: float
) -> None:
    below = BACKWARD[name](g, x)
    scaled = BACKWARD[name](GradMoments(factor**2 * g.var, g.corr_l), x)

    assert_same(scaled, GradMoments(factor**2 * below.var, below.corr_l))


@settings(max_examples=20, deadline=None)
@given(signals, st.floats(1e-2, 1e2))
@pytest.mark.parametrize("name", ["relu", "activation identity", "linear", "dropout"])
def test_homogeneous_component_scales_with_its_input(name: str, x: Moments, factor: float) -> None:
    out, scaled = FORWARD[name](x), FORWARD[name](replace(x, var=factor**2 * x.var))

    assert_same(scaled, replace(out, mean=0.0, var=factor**2 * out.var))
    assert scaled.mean == pytest.approx(factor * out.mean, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(signals, gradients, st.floats(1e-2, 1e2))
def test_norm_forgets_the_scale_and_divides_the_gradient_by_it(
    x: Moments, g: GradMoments, factor: float
) -> None:
    large = replace(x, var=factor**2 * x.var)
    for kind in ("layer_norm", "rms_norm"):
        back = BACKWARD[f"{kind}_backward"]
        below = back(g, x)
        assert_same(FORWARD[kind](large), FORWARD[kind](x))
        assert_same(back(g, large), replace(below, var=below.var / factor**2))


@settings(max_examples=20, deadline=None)
@given(signals, gradients, st.floats(0.1, 10.0))
def test_attention_whose_scores_stay_the_same_scales_with_its_input(
    x: Moments, g: GradMoments, factor: float
) -> None:
    colder = replace(HEAD, query_var=HEAD.query_var / factor**2, key_var=HEAD.key_var / factor**2)
    large = replace(x, var=factor**2 * x.var)
    out = theory.attention(x, HEAD)

    assert_same(theory.attention(large, colder), replace(out, var=factor**2 * out.var))
    assert_same(theory.attention_backward(g, large, colder), theory.attention_backward(g, x, HEAD))


@settings(max_examples=20, deadline=None)
@given(variances, correlations, st.floats(0.0, 0.8), st.floats(0.0, 0.8))
def test_two_dropouts_are_one_of_what_both_keep(
    var: float, corr: float, p: float, q: float
) -> None:
    x, g, both = Moments(0.0, var, corr), GradMoments(var, corr), 1 - (1 - p) * (1 - q)

    twice = theory.dropout(theory.dropout(x, p_drop=p), p_drop=q)
    back = theory.dropout_backward(theory.dropout_backward(g, p_drop=p), p_drop=q)

    assert_same(twice, theory.dropout(x, p_drop=both))
    assert_same(back, theory.dropout_backward(g, p_drop=both))


@settings(max_examples=20, deadline=None)
@given(signals, st.floats(0.1, 3.0), st.floats(0.0, 2.0), st.floats(0.1, 3.0), st.floats(0.0, 2.0))
def test_two_gains_are_one_of_their_product(
    x: Moments, a: float, a_var: float, b: float, b_var: float
) -> None:
    twice = theory.gain(theory.gain(x, gain_mean=a, gain_var=a_var), gain_mean=b, gain_var=b_var)
    product_var = a**2 * b_var + a_var * b**2 + a_var * b_var  # a difference might round below 0
    assert_same(twice, theory.gain(x, gain_mean=a * b, gain_var=product_var))


@settings(max_examples=20, deadline=None)
@given(signals, signals, signals)
def test_residual_sums_add_in_any_order(x: Moments, y: Moments, z: Moments) -> None:
    def add(a: Moments, b: Moments) -> Moments:
        return theory.residual(a, b, lam=1.0, beta=1.0)

    assert_same(add(add(x, y), z), add(x, add(y, z)))


@settings(max_examples=20, deadline=None)
@given(variances, st.sampled_from(["linear", "residual of itself", "gain", "attention"]))
def test_equal_tokens_stay_equal(var: float, name: str) -> None:
    x = Moments(0.0, var, 1.0)
    if name == "residual of itself":
        out = theory.residual(x, x, lam=0.6, beta=0.8)
    elif name == "attention":
        out = theory.attention(x, replace(HEAD, p_drop=0.0))
    else:
        out = FORWARD[name](x)
    assert out.corr_l == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@given(variances, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@pytest.mark.parametrize("name", [n for n in FORWARD if n not in ("softmax", "gated by up")])
def test_more_alike_tokens_come_out_more_alike(name: str, var: float, r: float, s: float) -> None:
    low, high = sorted((r, s))
    less, more = (FORWARD[name](Moments(0.0, var, corr)) for corr in (low, high))
    assert less.corr_l <= more.corr_l + 1e-6


@settings(max_examples=20, deadline=None)
@given(signals, st.integers(1, 8))
def test_heads_of_a_share_of_the_width_put_out_what_one_does(x: Any, n_heads: int) -> None:
    narrow = replace(HEAD, d_value=5)
    wide = replace(HEAD, d_value=5 * n_heads)
    narrow_heads = theory.multi_head(x, narrow, n_heads=n_heads, output_var=0.1)
    single = theory.multi_head(x, wide, n_heads=1, output_var=0.1)
    assert_same(narrow_heads, single)
