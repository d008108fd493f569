"""Scalar component formulas: simulation, limiting case."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dslm.components as theory
from dslm.components import GradMoments, Moments
from dslm.spec import Activation
from tests.dslm.signals import (
    Floats,
    G,
    X,
    as_tuple,
    grad_simulated,
    pair,
    simulated,
)


def gelu(u: Floats) -> Floats:
    grid = np.linspace(-9, 9, 6001)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2) * 0.003])
    return np.asarray(u * np.interp(u, grid, cumulative))


def silu(u: Floats) -> Floats:
    return np.asarray(u / (1 + np.exp(-u)))


def gelu_tanh(u: Floats) -> Floats:
    return np.asarray(u / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))))


def slope_of(f: Any, u: Floats) -> Floats:
    return np.asarray((f(u + 1e-3) - f(u - 1e-3)) / 2e-3)


@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("relu", lambda u: np.maximum(u, 0)),
        ("gelu", gelu),
        ("gelu_tanh", gelu_tanh),
        ("silu", silu),
        ("tanh", np.tanh),
        ("identity", lambda u: u),
        ("quick_gelu", lambda u: u / (1 + np.exp(-1.702 * u))),
        ("relu_squared", lambda u: np.maximum(u, 0) ** 2),
    ],
)
def test_activation_matches_simulation_both_ways(
    name: Any, f: Any, rng: np.random.Generator
) -> None:
    u, g = pair(rng, X), pair(rng, G)

    forward = theory.activation(X, name)
    backward = theory.activation_backward(G, X, name)

    # a million pairs: 0.3 % for fourth moments, 0.0012 for the mean
    assert as_tuple(forward) == pytest.approx(
        simulated(f(u)), rel=0.01, abs=6e-3
    )  # means: 5 standard errors
    expected = grad_simulated(g * slope_of(f, u))
    assert (backward.var, backward.corr_l) == pytest.approx(expected, rel=0.02)


def test_relu_gives_the_closed_form_of_the_paper() -> None:
    out = theory.relu(Moments(0.0, 3.0, 0.5))

    r = 0.5
    cov = (math.sqrt(1 - r**2) + r * (math.pi - math.acos(r)) - 1) / (2 * math.pi)
    assert out.var == pytest.approx(3 * (math.pi - 1) / (2 * math.pi))
    assert out.cov_l == pytest.approx(3 * cov)


def test_gelu_variance_gives_the_closed_form_of_the_paper() -> None:
    s, a = 1.7, 1.7 / 2.7

    out = theory.gelu(Moments(0.0, s, 1.0))

    root = math.sqrt((1 - a) / (1 + a))
    assert out.var == pytest.approx(s / (2 * math.pi) * (math.pi - a - math.acos(a) + 2 * a * root))


def test_gelu_becomes_relu_for_large_inputs() -> None:
    large = Moments(0.0, 1e8, 0.5)
    assert theory.gelu(large).var == pytest.approx(theory.relu(large).var, rel=1e-3)
    assert theory.gelu_backward(G, large).var == pytest.approx(G.var / 2, rel=1e-3)


def test_equal_tokens_stay_equal_through_an_activation() -> None:
    same = Moments(0.0, 1.3, 1.0)
    for name in get_args(Activation):
        assert theory.activation(same, name).corr_l == pytest.approx(1.0, abs=1e-9)


def test_smooth_activations_become_relu_for_large_inputs() -> None:
    large = Moments(0.0, 1e6, 0.5)
    for name in ("silu", "gelu_tanh", "quick_gelu"):
        assert theory.activation(large, name).var == pytest.approx(theory.relu(large).var, rel=0.01)
        assert theory.activation_backward(G, large, name).var == pytest.approx(G.var / 2, rel=0.02)


def test_smooth_activations_are_linear_for_small_inputs() -> None:
    small = Moments(0.0, 1e-6, 0.5)
    for name, slope in (("silu", 0.5), ("gelu", 0.5), ("gelu_tanh", 0.5), ("tanh", 1.0)):
        out = theory.activation(small, name)  # type: ignore[arg-type]
        assert (out.var, out.corr_l) == pytest.approx((slope**2 * small.var, 0.5), rel=1e-3)


def test_tanh_form_of_gelu_is_close_to_gelu() -> None:
    exact, form = theory.gelu(X), theory.activation(X, "gelu_tanh")
    assert as_tuple(form) == pytest.approx(as_tuple(exact), rel=1e-3)


def test_gate_of_the_identity_multiplies_variances() -> None:
    up = Moments(0.0, 0.7, 0.6)
    out = theory.gated(X, up, "identity")
    of_gate, of_up = theory.gated_backward(G, X, up, "identity")
    assert (out.var, out.corr_l) == pytest.approx((2.0 * 0.7, 0.4 * 0.6))
    assert (of_gate.var, of_up.var) == pytest.approx((G.var * 0.7, G.var * 2.0))


@pytest.mark.parametrize(("name", "f"), [("silu", silu), ("gelu", gelu)])
def test_gated_unit_matches_simulation_both_ways(
    name: Any, f: Any, rng: np.random.Generator
) -> None:
    up = Moments(0.0, 0.7, 0.6)
    gate_values, up_values, g = pair(rng, X), pair(rng, up), pair(rng, G)

    forward = theory.gated(X, up, name)
    of_gate, of_up = theory.gated_backward(G, X, up, name)

    hidden = simulated(f(gate_values) * up_values)
    assert (forward.var, forward.corr_l) == pytest.approx(hidden[1:], rel=0.03)
    expected = grad_simulated(g * slope_of(f, gate_values) * up_values)
    assert (of_gate.var, of_gate.corr_l) == pytest.approx(expected, rel=0.04)
    expected = grad_simulated(g * f(gate_values))
    assert (of_up.var, of_up.corr_l) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("mean", [0.0, 1.5])
def test_linear_matches_simulation_both_ways(mean: float, rng: np.random.Generator) -> None:
    x = Moments(mean, X.var, X.corr_l)
    w = rng.standard_normal((400, 60, 50)) * 0.1
    u, g = pair(rng, x, 400 * 60).reshape(2, 400, 60), pair(rng, G, 400 * 50).reshape(2, 400, 50)

    forward = theory.linear(x, d_in=60, weight_var=0.01)
    backward = theory.linear_backward(G, d_out=50, weight_var=0.01)

    y = np.einsum("tni,nio->tno", u, w).reshape(2, -1)
    assert (forward.var, forward.corr_l) == pytest.approx(simulated(y)[1:], rel=0.06)
    below = np.einsum("tno,nio->tni", g, w).reshape(2, -1)
    assert (backward.var, backward.corr_l) == pytest.approx(grad_simulated(below), rel=0.06)


def test_dropout_matches_simulation_both_ways(rng: np.random.Generator) -> None:
    x, p = Moments(1.0, 2.0, 0.4), 0.3
    u, g = pair(rng, x), pair(rng, G)
    mask = (rng.random(u.shape) >= p) / (1 - p)

    forward, backward = theory.dropout(x, p_drop=p), theory.dropout_backward(G, p_drop=p)

    assert as_tuple(forward) == pytest.approx(simulated(u * mask), rel=0.01)
    assert (backward.var, backward.corr_l) == pytest.approx(grad_simulated(g * mask), rel=0.01)


def test_dropout_of_nothing_changes_nothing() -> None:
    assert theory.dropout(X, p_drop=0.0) == X
    assert theory.dropout_backward(G, p_drop=0.0) == G


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
def test_norm_matches_simulation_to_first_order_in_width(
    kind: str, rng: np.random.Generator
) -> None:
    d, n = 32, 30_000
    x, g = Moments(0.0, 2.0, 0.5), GradMoments(1.0, 0.5)
    u, h = pair(rng, x, n * d).reshape(2, n, d), pair(rng, g, n * d).reshape(2, n, d)
    if kind == "layer_norm":
        u, h = u - u.mean(-1, keepdims=True), h - h.mean(-1, keepdims=True)
    s = np.sqrt(np.square(u).mean(-1, keepdims=True))
    y = u / s
    below = (h - y * (h * y).mean(-1, keepdims=True)) / s

    forward = getattr(theory, kind)(x, d_model=d)
    backward = getattr(theory, f"{kind}_backward")(g, x, d_model=d)

    # d = 32: terms of order 1/d, 3 to 7 %, must be there; those of order 1/d² are below 1 %
    assert forward.corr_l == pytest.approx(simulated(y.reshape(2, -1))[2], rel=0.01)
    expected = grad_simulated(below.reshape(2, -1))
    assert (backward.var, backward.corr_l) == pytest.approx(expected, rel=0.02)


def test_residual_adds_variances_and_covariances() -> None:
    out = theory.residual(X, Moments(0.0, 4.0, 1.0), lam=0.6, beta=0.8)
    below = theory.residual_backward(G, GradMoments(2.0, 1.0), lam=0.6, beta=0.8)

    assert (out.var, out.cov_l) == pytest.approx((0.36 * 2 + 0.64 * 4, 0.36 * 0.8 + 0.64 * 4))
    assert (below.var, below.cov_l) == pytest.approx((0.36 * 0.5 + 0.64 * 2, 0.36 * 0.15 + 1.28))


@pytest.mark.parametrize("mean", [0.0, 0.8])
def test_gain_and_bias_match_simulation_both_ways(mean: float, rng: np.random.Generator) -> None:
    x, d = Moments(mean, 2.0, 0.4), 200_000
    gains = 0.7 + 0.3 * rng.standard_normal(d)
    bias = 0.5 * rng.standard_normal(d)
    u, g = pair(rng, x, d), pair(rng, G, d)

    out = theory.gain(x, gain_mean=0.7, gain_var=0.09, bias_var=0.25)
    below = theory.gain_backward(G, gain_mean=0.7, gain_var=0.09)

    # 200,000 features: about 0.5 %
    assert as_tuple(out) == pytest.approx(simulated(gains * u + bias), rel=0.02, abs=5e-3)
    assert (below.var, below.corr_l) == pytest.approx(grad_simulated(gains * g), rel=0.02)


def test_gain_of_one_changes_nothing() -> None:
    assert theory.gain(X) == X
    assert theory.gain_backward(G) == G


variances = st.floats(1e-3, 1e2)
correlations = st.floats(0.0, 1.0)


@given(variances, correlations, st.sampled_from(get_args(Activation)))
def test_activation_keeps_moments_possible(var: float, corr: float, name: Any) -> None:
    out = theory.activation(Moments(0.0, var, corr), name)
    below = theory.activation_backward(GradMoments(1.0, corr), Moments(0.0, var, corr), name)

    assert out.var >= 0 and abs(out.corr_l) <= 1 + 1e-9
    assert below.var >= 0 and abs(below.corr_l) <= 1 + 1e-9


@given(variances, correlations, st.floats(0.0, 0.9))
def test_dropout_of_both_directions_commutes_with_linear(var: float, corr: float, p: float) -> None:
    x = Moments(0.0, var, corr)

    dropout_first = theory.linear(theory.dropout(x, p_drop=p), d_in=3, weight_var=0.2)
    linear_first = theory.dropout(theory.linear(x, d_in=3, weight_var=0.2), p_drop=p)

    assert as_tuple(dropout_first) == pytest.approx(as_tuple(linear_first))
