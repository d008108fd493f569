"""Scalar component formulas: simulation, limiting case, assumption."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dslm.components as theory
from dslm import AssumptionError
from dslm.components import GradMoments, Head, Moments

Floats = np.ndarray[Any, np.dtype[np.float64]]
X = Moments(mean=0.0, var=2.0, corr_l=0.4)
G = GradMoments(var=0.5, corr_l=0.3)


def pair(rng: np.random.Generator, x: Moments | GradMoments, n: int = 1_000_000) -> Floats:
    """(2, n): one feature of two different tokens, n times."""
    shared, own = rng.standard_normal(n), rng.standard_normal((2, n))
    mean = x.mean if isinstance(x, Moments) else 0.0
    own *= math.sqrt(1 - x.corr_l)
    return np.asarray(mean + math.sqrt(x.var) * (math.sqrt(x.corr_l) * shared + own))


def simulated(y: Floats) -> tuple[float, float, float]:
    """Mean, variance and correlation of (2, n)."""
    mean, var = y.mean(), y.var()
    return float(mean), float(var), float(((y[0] - mean) * (y[1] - mean)).mean() / var)


def grad_simulated(g: Floats) -> tuple[float, float]:
    var = float(np.square(g).mean())
    return var, float((g[0] * g[1]).mean() / var)


def as_tuple(x: Moments) -> tuple[float, float, float]:
    return x.mean, x.var, x.corr_l


def gelu(u: Floats) -> Floats:
    grid = np.linspace(-9, 9, 6001)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2) * 0.003])
    return np.asarray(u * np.interp(u, grid, cumulative))


def silu(u: Floats) -> Floats:
    return np.asarray(u / (1 + np.exp(-u)))


def slope_of(f: Any, u: Floats) -> Floats:
    return np.asarray((f(u + 1e-3) - f(u - 1e-3)) / 2e-3)


@pytest.mark.parametrize(
    ("name", "f"),
    [("relu", lambda u: np.maximum(u, 0)), ("gelu", gelu), ("silu", silu), ("tanh", np.tanh)],
)
def test_activation_matches_simulation_both_ways(
    name: Any, f: Any, rng: np.random.Generator
) -> None:
    u, g = pair(rng, X), pair(rng, G)

    forward = theory.activation(X, name)
    backward = theory.activation_backward(G, X, name)

    # a million pairs: about 0.3 % for fourth moments
    assert as_tuple(forward) == pytest.approx(simulated(f(u)), rel=0.01, abs=3e-3)
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
    for name in ("relu", "gelu", "silu", "gelu_tanh", "tanh", "identity"):
        assert theory.activation(same, name).corr_l == pytest.approx(1.0, abs=1e-9)


def test_gated_unit_matches_simulation_both_ways(rng: np.random.Generator) -> None:
    up = Moments(0.0, 0.7, 0.6)
    gate_values, up_values, g = pair(rng, X), pair(rng, up), pair(rng, G)

    forward = theory.gated(X, up, "silu")
    of_gate, of_up = theory.gated_backward(G, X, up, "silu")

    hidden = simulated(silu(gate_values) * up_values)
    assert (forward.var, forward.corr_l) == pytest.approx(hidden[1:], rel=0.03)
    expected = grad_simulated(g * slope_of(silu, gate_values) * up_values)
    assert (of_gate.var, of_gate.corr_l) == pytest.approx(expected, rel=0.04)
    expected = grad_simulated(g * silu(gate_values))
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


@pytest.mark.parametrize(("s", "error"), [(0.1, 0.03), (1.0, 0.05), (3.0, 0.12)])
def test_softmax_matches_simulation_both_ways(
    s: float, error: float, rng: np.random.Generator
) -> None:
    n, rows = 50, 20_000
    z = math.sqrt(s) * rng.standard_normal((rows, n))
    a = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    g = rng.standard_normal((rows, n))
    g_z = a * (g - (a * g).sum(-1, keepdims=True))

    forward = theory.softmax(Moments(0.0, s, 0.0), seq_len=n)
    backward = theory.softmax_backward(GradMoments(1.0, 0.0), Moments(0.0, s, 0.0), seq_len=n)

    assert forward.var == pytest.approx(a.var(), rel=error)
    assert backward.var == pytest.approx(g_z.var(), rel=error)


@pytest.mark.parametrize("std", [0.003, 0.03, 0.1])
def test_softmax_gradient_of_cold_logits_has_its_series(std: float) -> None:
    n, s = 500, std**2

    below = theory.softmax_backward(GradMoments(1.0, 0.0), Moments(0.0, s, 0.0), seq_len=n)

    # E[sum of a²] - 2 E[sum of a³] + E[(sum of a²)²] to first order in s
    assert below.var == pytest.approx((n - 1) / n**3 * (1 + s), rel=1e-4)


def test_softmax_of_equal_logits_is_uniform() -> None:
    out = theory.softmax(Moments(0.0, 5.0, 1.0), seq_len=20)
    assert (out.mean, out.var) == pytest.approx((0.05, 0.0), abs=1e-9)


def test_attention_with_cold_scores_averages() -> None:
    head = Head(64, 128, 32, 128, 1e-9, 1e-9, 1 / 128)

    out = theory.attention(X, head)
    below = theory.attention_backward(G, X, head)

    r, n = X.corr_l, 64
    assert out.var == pytest.approx(X.var * (r + (1 - r) / n), rel=1e-6)
    assert out.corr_l == pytest.approx(1.0)
    assert below.var == pytest.approx(G.var * (1 + (n - 1) * G.corr_l) / n, rel=1e-6)


def test_attention_of_few_features_matches_simulation_both_ways(rng: np.random.Generator) -> None:
    head = Head(96, 64, 32, 64, 0.36 / 64, 0.36 / 64, 1 / 64)
    x, g = Moments(0.0, 2.5, 0.2), GradMoments(1.0, 0.3)
    n, d = head.seq_len, head.d_model
    seen = []
    for _ in range(60):
        w_q, w_k, w_v = (
            rng.standard_normal((d, m)) * math.sqrt(v)
            for m, v in ((32, head.query_var), (32, head.key_var), (d, head.value_var))
        )
        u, h = (
            math.sqrt(m.var)
            * (
                math.sqrt(m.corr_l) * rng.standard_normal((1, d))
                + math.sqrt(1 - m.corr_l) * rng.standard_normal((n, d))
            )
            for m in (x, g)
        )
        q, k, v = u @ w_q, u @ w_k, u @ w_v
        a = np.exp(q @ k.T / math.sqrt(32))
        a /= a.sum(axis=1, keepdims=True)
        e = h @ v.T
        s = a * (e - (a * e).sum(axis=1, keepdims=True)) / math.sqrt(32)
        below = a.T @ h @ w_v.T + s @ k @ w_q.T + s.T @ q @ w_k.T
        seen.append((*energies(a @ v), *energies(below)))

    out_var, out_cov, below_var, below_cov = np.mean(seen, axis=0)
    out, back = theory.attention(x, head), theory.attention_backward(g, x, head)
    # 60 draws of 64 features: about 3 %
    assert (out.var, out.cov_l) == pytest.approx((out_var, out_cov), rel=0.08)
    assert (back.var, back.cov_l) == pytest.approx((below_var, below_cov), rel=0.1)


def test_queries_of_few_features_meet_more_than_independent_ones(
    rng: np.random.Generator,
) -> None:
    n, d, d_key = 60, 24, 16
    x, head = Moments(0.0, 2.0, 0.0), Head(n, d, d_key, d, 0.7 / d, 0.7 / d, 1 / d)
    seen = []
    for _ in range(400):
        u = math.sqrt(x.var) * rng.standard_normal((n, d))
        q, k = (u @ rng.standard_normal((d, d_key)) * math.sqrt(0.7 / d) for _ in range(2))
        a = np.exp(q @ k.T / math.sqrt(d_key))
        seen.append(energies(a / a.sum(axis=1, keepdims=True) @ u))

    # a correlation of scores that scatters by 0.3 meets 1.3 times as often: 400 draws see 2 %
    assert theory.attention(x, head).cov_l == pytest.approx(np.mean(seen, axis=0)[1], rel=0.08)


def energies(y: Floats) -> tuple[float, float]:
    """Mean of y_i·y_i/d and of y_i·y_j/d, i≠j, of (n, d)."""
    n, own = len(y), float(np.square(y).mean())
    return own, float((np.square(y.sum(axis=0)).mean() / n - own) / (n - 1))


def test_residual_adds_variances_and_covariances() -> None:
    out = theory.residual(X, Moments(0.0, 4.0, 1.0), lam=0.6, beta=0.8)
    below = theory.residual_backward(G, GradMoments(2.0, 1.0), lam=0.6, beta=0.8)

    assert (out.var, out.cov_l) == pytest.approx((0.36 * 2 + 0.64 * 4, 0.36 * 0.8 + 0.64 * 4))
    assert (below.var, below.cov_l) == pytest.approx((0.36 * 0.5 + 0.64 * 2, 0.36 * 0.15 + 1.28))


def test_embedding_correlation_is_the_shared_share() -> None:
    out = theory.embedding((1.0, 3.0), (0.5, 0.0))
    assert (out.var, out.corr_l) == pytest.approx((4.0, 0.125))


@pytest.mark.parametrize(
    "broken",
    [
        lambda: theory.relu(Moments(1.0, 1.0, 0.0)),
        lambda: theory.gelu(Moments(1.0, 1.0, 0.0)),
        lambda: theory.gelu_backward(G, Moments(1.0, 1.0, 0.0)),
        lambda: theory.relu_backward(G, Moments(1.0, 1.0, 0.0)),
        lambda: theory.gated(X, Moments(1.0, 1.0, 0.0), "silu"),
        lambda: theory.rms_norm(Moments(1.0, 1.0, 0.0), d_model=8),
        lambda: theory.layer_norm(Moments(0.0, 0.0, 0.0), d_model=8),
        lambda: theory.layer_norm_backward(G, X, d_model=1),
        lambda: theory.dropout(X, p_drop=1.0),
        lambda: theory.dropout_backward(G, p_drop=-0.1),
        lambda: theory.linear(X, d_in=0, weight_var=1.0),
        lambda: theory.linear_backward(G, d_out=4, weight_var=-1.0),
        lambda: theory.softmax(X, seq_len=1),
        lambda: theory.softmax_backward(G, X, seq_len=1),
        lambda: theory.attention(Moments(1.0, 1.0, 0.0), Head(8, 8, 8, 8, 1.0, 1.0, 1.0)),
        lambda: Head(8, 8, 8, 8, 1.0, 1.0, 1.0, p_drop=1.0),
        lambda: theory.embedding((1.0,), (1.5,)),
        lambda: Moments(0.0, -1.0, 0.0),
        lambda: GradMoments(1.0, 1.1),
    ],
)
def test_formula_refuses_what_its_derivation_excludes(broken: Any) -> None:
    with pytest.raises(AssumptionError):
        broken()


variances = st.floats(1e-3, 1e2)
correlations = st.floats(0.0, 1.0)


@given(variances, correlations, st.sampled_from(["relu", "gelu", "silu", "gelu_tanh", "tanh"]))
def test_activation_keeps_moments_possible(var: float, corr: float, name: Any) -> None:
    out = theory.activation(Moments(0.0, var, corr), name)
    below = theory.activation_backward(GradMoments(1.0, corr), Moments(0.0, var, corr), name)

    assert out.var >= 0 and abs(out.corr_l) <= 1 + 1e-9
    assert below.var >= 0 and abs(below.corr_l) <= 1 + 1e-9


@given(variances, correlations, st.floats(0.0, 0.9))
def test_dropout_of_both_directions_commutes_with_linear(var: float, corr: float, p: float) -> None:
    x = Moments(0.0, var, corr)

    one = theory.linear(theory.dropout(x, p_drop=p), d_in=3, weight_var=0.2)
    other = theory.dropout(theory.linear(x, d_in=3, weight_var=0.2), p_drop=p)

    assert as_tuple(one) == pytest.approx(as_tuple(other))
