"""Softmax and one attention head."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

import dslm.components as theory
from benchmarks.components.signals import Errors, Floats, compare, measured
from dslm.components import AttentionHead, GradMoments, Moments

LOGITS = 1_200_000
SETTINGS = 504
AXES: dict[str, tuple[float, ...]] = {
    "var": (10**-0.5, 1.0, 10**0.5),
    "corr": (0.0, 1 / 3, 2 / 3),
    "grad_corr": (0.0, 1 / 3, 2 / 3),
    "query_std": (0.1, 0.35, 0.6),
    "value_std": (10**-0.5, 1.0, 10**0.5),
    "p_drop": (0.0, 1 / 3, 2 / 3),
    "d_key": (32, 90, 256),
    "d_model": (100, 316, 1000),
    "seq_len": (300, 548, 1000),
}


def softmax(rng: np.random.Generator) -> Iterator[Errors]:
    """Fresh logits for each setting; independent gradients of the weights are averaged exactly."""
    g = GradMoments(1.0, 0.0)
    grid = itertools.product((300, 1000, 3000, 10_000), np.logspace(-2, 0, 16), np.arange(8) / 8)
    for n, std, r in grid:
        x = Moments(0.0, float(std**2), float(r))
        shared, single = (rng.standard_normal((LOGITS // n, m)) for m in (1, n))
        a = softmax_rows(std * (np.sqrt(r) * shared + np.sqrt(1 - r) * single))
        below = theory.softmax_backward(g, x, seq_len=n)
        above = theory.softmax(x, seq_len=n)
        pairs = {
            "x mean": (a.mean(), above.mean),
            "x var": (np.square(a - above.mean).mean(), above.var),
            "g var": (jacobian_energy(a) / n, below.var),
        }
        yield {k: 100 * abs(m - p) / abs(m) for k, (m, p) in pairs.items()}


def jacobian_energy(a: Floats) -> float:
    """Mean over rows of the sum of squares of diag(a) - a aᵀ."""
    square = np.square(a).sum(axis=-1)
    return float((square - 2 * (a**3).sum(axis=-1) + square**2).mean())


def softmax_rows(z: Floats) -> Floats:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def attention(rng: np.random.Generator) -> Iterator[Errors]:
    """Score variances up to 1.3.

    With inputs of 10 times the variance, `attention_wide`, they reach 13. There the score path,
    which the reference leaves out, is most of the gradient in a ninth of the settings; its
    published 90th percentile of 13 % cannot hold them.
    """
    yield from heads(rng, AXES)


def attention_wide(rng: np.random.Generator) -> Iterator[Errors]:
    yield from heads(rng, AXES | {"var": (0.1, 1.0, 10.0)})


def heads(rng: np.random.Generator, grid: dict[str, tuple[float, ...]]) -> Iterator[Errors]:
    """A random subset of the full grid in which each axis takes each of its values equally often.

    Uniform weights on the same draw serve as a control variate: their result is subtracted, and
    their exact mean added. Only the effect of the scores then scatters, so hot scores get more
    draws.
    """
    axes = {name: rng.permutation(np.resize(v, SETTINGS)) for name, v in grid.items()}
    for at in (dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)):
        x, g = Moments(0.0, at["var"], at["corr"]), GradMoments(1.0, at["grad_corr"])
        head, cold = head_of(at, at["query_std"]), head_of(at, 0.0)
        uniform = theory.attention(x, cold), theory.attention_backward(g, x, cold)
        draws = np.mean(
            [excess_moments(rng, head, x, g) for _ in range(draws_for(head, x))], axis=0
        )
        y, g_x = (draws[i] + np.array([0.0, uniform[i].var, uniform[i].cov_l]) for i in range(2))
        yield compare(y, theory.attention(x, head), g_x, theory.attention_backward(g, x, head))


def head_of(at: dict[str, float], query_std: float) -> AttentionHead:
    d, d_key, n = int(at["d_model"]), int(at["d_key"]), int(at["seq_len"])
    return AttentionHead(
        n, d, d_key, d, query_std**2 / d, query_std**2 / d, at["value_std"] ** 2 / d, at["p_drop"]
    )


def draws_for(head: AttentionHead, x: Moments) -> int:
    """2 where scores are small, 37 at a score variance of 1.3, and at most 80."""
    return min(int(2 + 27 * head.score_var(x)), 80)


def tokens(rng: np.random.Generator, x: Moments | GradMoments, n: int, d: int) -> Floats:
    """(n, d) Gaussian tokens that share a part, in single precision."""
    shared, single = (rng.standard_normal((m, d), dtype=np.float32) for m in (1, n))
    mixed = np.float32(np.sqrt(x.corr_l)) * shared + np.float32(np.sqrt(1 - x.corr_l)) * single
    return np.asarray(np.float32(np.sqrt(x.var)) * mixed)


def excess_moments(
    rng: np.random.Generator, head: AttentionHead, x: Moments, g: GradMoments
) -> Floats:
    """Moments of one draw's output and input gradient, less those with uniform weights."""
    n, d, scale = head.seq_len, head.d_model, np.float32(head.d_key**-0.5)
    u, h = tokens(rng, x, n, d), tokens(rng, g, n, d)
    sizes = ((head.d_key, head.query_var), (head.d_key, head.key_var), (d, head.value_var))
    w_q, w_k, w_v = (
        rng.standard_normal((d, m), dtype=np.float32) * np.float32(np.sqrt(v)) for m, v in sizes
    )
    q, k, v = u @ w_q, u @ w_k, u @ w_v
    a = softmax_rows(q @ k.T * scale)
    mask = (rng.random(a.shape, dtype=np.float32) >= head.p_drop) / np.float32(1 - head.p_drop)
    e = (h @ v.T) * mask
    s = a * (e - (a * e).sum(axis=-1, keepdims=True)) * scale
    through_scores = s @ k @ w_q.T + s.T @ q @ w_k.T
    dropped = a * mask
    y, y_cold = dropped @ v, mask @ v / n
    g_x, g_cold = dropped.T @ h @ w_v.T + through_scores, mask.T @ h @ w_v.T / n
    pairs = ((y, y_cold), (g_x, g_cold))
    return np.array([measured(hot.astype(np.float64)) - measured(cold) for hot, cold in pairs])
