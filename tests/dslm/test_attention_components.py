"""Scalar softmax and attention: simulation, limiting case."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dslm.components as theory
from dslm.components import AttentionHead, GradMoments, Moments
from tests.dslm.signals import (
    Floats,
    G,
    X,
    energies,
    rows,
)


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


def test_softmax_of_large_rows_gives_the_form_of_the_paper() -> None:
    n, s, shared = 100_000, 0.8, 0.25
    out = theory.softmax(Moments(0.0, s, shared), seq_len=n)
    assert out.var == pytest.approx((math.exp((1 - shared) * s) - 1) / n**2, rel=0.01)


def test_softmax_of_equal_logits_is_uniform() -> None:
    out = theory.softmax(Moments(0.0, 5.0, 1.0), seq_len=20)
    assert (out.mean, out.var) == pytest.approx((0.05, 0.0), abs=1e-9)


def test_attention_with_cold_scores_averages() -> None:
    head = AttentionHead(64, 128, 32, 128, 1e-9, 1e-9, 1 / 128)

    out = theory.attention(X, head)
    below = theory.attention_backward(G, X, head)

    r, n = X.corr_l, 64
    assert out.var == pytest.approx(X.var * (r + (1 - r) / n), rel=1e-6)
    assert out.corr_l == pytest.approx(1.0)
    assert below.var == pytest.approx(G.var * (1 + (n - 1) * G.corr_l) / n, rel=1e-6)


def test_attention_of_few_features_matches_simulation_both_ways(rng: np.random.Generator) -> None:
    head = AttentionHead(96, 64, 32, 64, 0.36 / 64, 0.36 / 64, 1 / 64)
    x, g = Moments(0.0, 2.5, 0.2), GradMoments(1.0, 0.3)
    n, d = head.seq_len, head.d_model
    draws = []
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
        draws.append((*energies(a @ v), *energies(below)))

    out_var, out_cov, below_var, below_cov = np.mean(draws, axis=0)
    out, back = theory.attention(x, head), theory.attention_backward(g, x, head)
    # 60 draws of 64 features: about 3 %
    assert (out.var, out.cov_l) == pytest.approx((out_var, out_cov), rel=0.08)
    assert (back.var, back.cov_l) == pytest.approx((below_var, below_cov), rel=0.1)


def test_queries_of_few_features_meet_more_than_independent_ones(
    rng: np.random.Generator,
) -> None:
    n, d, d_key = 60, 24, 16
    x, head = Moments(0.0, 2.0, 0.0), AttentionHead(n, d, d_key, d, 0.7 / d, 0.7 / d, 1 / d)
    draws = []
    for _ in range(400):
        u = math.sqrt(x.var) * rng.standard_normal((n, d))
        q, k = (u @ rng.standard_normal((d, d_key)) * math.sqrt(0.7 / d) for _ in range(2))
        a = np.exp(q @ k.T / math.sqrt(d_key))
        draws.append(energies(a / a.sum(axis=1, keepdims=True) @ u))

    # a correlation of scores that scatters by 0.3 meets 1.3 times as often: 400 draws see 2 %
    assert theory.attention(x, head).cov_l == pytest.approx(np.mean(draws, axis=0)[1], rel=0.08)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_multi_head_attention_matches_simulation_both_ways(
    p: float, rng: np.random.Generator
) -> None:
    n, d, n_heads, width = 48, 64, 4, 16
    head = AttentionHead(n, d, width, width, 0.3 / d, 0.3 / d, 1 / d, p)
    x, g = Moments(0.0, 1.5, 0.3), GradMoments(1.0, 0.4)
    draws = []
    for _ in range(80):
        u, h = (rows(rng, m, n, d) for m in (x, g))
        y, below = np.zeros((n, d)), np.zeros((n, d))
        for _ in range(n_heads):
            w_q, w_k, w_v = (
                rng.standard_normal((d, width)) * math.sqrt(v)
                for v in (head.query_var, head.key_var, head.value_var)
            )
            w_o = rng.standard_normal((width, d)) * math.sqrt(0.02)
            out, back = one_head(u, h @ w_o.T, (w_q, w_k, w_v), rng.random((n, n)) >= p)
            y, below = y + out @ w_o, below + back
        draws.append((*energies(y), *energies(below)))

    out_var, out_cov, below_var, below_cov = np.mean(draws, axis=0)
    forward = theory.multi_head(x, head, n_heads=n_heads, output_var=0.02)
    backward = theory.multi_head_backward(g, x, head, n_heads=n_heads, output_var=0.02)
    # 80 draws of 4 heads: about 2 %
    assert (forward.var, forward.cov_l) == pytest.approx((out_var, out_cov), rel=0.06)
    assert (backward.var, backward.cov_l) == pytest.approx((below_var, below_cov), rel=0.06)


def one_head(
    u: Floats, g: Floats, weights: tuple[Floats, Floats, Floats], unmasked: Floats
) -> tuple[Floats, Floats]:
    """Output of one head and its input's gradient below `g`; dropout keeps what `kept` says."""
    w_q, w_k, w_v = weights
    scale, mask = w_q.shape[1] ** -0.5, unmasked / unmasked.mean()
    q, k, v = u @ w_q, u @ w_k, u @ w_v
    a = np.exp(q @ k.T * scale)
    a /= a.sum(axis=1, keepdims=True)
    e = (g @ v.T) * mask
    s = a * (e - (a * e).sum(axis=1, keepdims=True)) * scale
    back = (a * mask).T @ g @ w_v.T + s @ k @ w_q.T + s.T @ q @ w_k.T
    return (a * mask) @ v, back
