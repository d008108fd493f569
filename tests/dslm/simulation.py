"""A random transformer in NumPy, with its gradient, to hold the theory against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dslm import Attention, Block, FeedForward, Kernel, Linear, Norm, Residual, Stack

Floats = NDArray[np.float64]
Back = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Measured:
    """Moments of stream and gradient at the N + 1 places; kernels of the first and the last."""

    variance: Floats
    correlation: Floats
    grad_variance: Floats
    grad_correlation: Floats


def kernel_of(x: Floats) -> Kernel:
    matrix = np.einsum("bid,bjd->ij", x, x) / (x.shape[0] * x.shape[2])
    ones = np.ones(x.shape[1], dtype=np.int64)
    return Kernel(np.diagonal(matrix).copy(), matrix, ones, float(x.mean()))


def moments(x: Floats) -> tuple[float, float]:
    mean, n = x.mean(), x.shape[1]
    var = np.square(x).mean() - mean**2
    off = (np.square(x.sum(axis=1)).mean() / n - np.square(x).mean()) / (n - 1)
    return float(var), float((off - mean**2) / var)


def simulate(stack: Stack, x: Floats, g: Floats, rng: np.random.Generator) -> Measured:
    """Draw the stack's weights, run `x` forward and `g` back."""
    streams, tapes = [x], []
    for block in stack.blocks:
        assert block is not None
        x, tape = block_forward(block, x, rng)
        streams.append(x)
        tapes.append(tape)
    gradients = [g]
    for tape in reversed(tapes):
        for step in reversed(tape):
            g = step(g)
        gradients.append(g)
    forward = np.array([moments(s) for s in streams])
    backward = np.array([moments(s) for s in gradients[::-1]])
    relative = backward[:, 0] / backward[-1, 0]
    return Measured(forward[:, 0], forward[:, 1], relative, backward[:, 1])


def unchanged(h: Floats) -> Floats:
    return h


def block_forward(block: Block, x: Floats, rng: np.random.Generator) -> tuple[Floats, list[Back]]:
    """Return the block's output and its backward steps, first one first."""
    branches = (
        (block.attention, block.attention_norm, block.attention_out_norm, block.attention_residual),
        (
            block.feed_forward,
            block.feed_forward_norm,
            block.feed_forward_out_norm,
            block.feed_forward_residual,
        ),
    )
    if block.placement == "parallel":
        (f, f_back), (h, h_back) = (
            whole_branch(layer, "pre", norm, out, x, rng=rng) for layer, norm, out, _ in branches
        )
        lam, a, b = branches[0][3].lam, branches[0][3].beta, branches[1][3].beta
        return lam * x + a * f + b * h, [lambda g: lam * g + a * f_back(g) + b * h_back(g)]
    tape: list[Back] = []
    for layer, norm, out, residual in branches:
        f, back = whole_branch(layer, block.placement, norm, out, x, rng=rng)
        x, after = residual.lam * x + residual.beta * f, unchanged
        if block.placement == "post":
            x, after = normed(norm, x)
        tape.append(partial(step_back, residual, after, back))
    return x, tape


def whole_branch(
    layer: Attention | FeedForward,
    placement: str,
    norm: Norm,
    out: Norm | None,
    x: Floats,
    *,
    rng: np.random.Generator,
) -> tuple[Floats, Back]:
    """The branch with the norms on its input and on its output."""
    first = second = unchanged
    if placement in ("pre", "sandwich"):
        x, first = normed(norm, x)
    run = attention if isinstance(layer, Attention) else feed_forward
    y, back = run(layer, x, rng)  # type: ignore[operator]
    if placement in ("sandwich", "branch"):
        y, second = normed(out or norm, y)
    return y, lambda g: first(back(second(g)))


def step_back(residual: Residual, after: Back, back: Back, h: Floats) -> Floats:
    h = after(h)
    return residual.lam * h + residual.beta * back(h)


def normed(norm: Norm, x: Floats) -> tuple[Floats, Back]:
    centred = x - x.mean(-1, keepdims=True) if norm.kind == "layernorm" else x
    s = np.sqrt(np.square(centred).mean(-1, keepdims=True) + norm.eps)
    y = centred / s

    def back(h: Floats) -> Floats:
        h = h - y * (h * y).mean(-1, keepdims=True)
        if norm.kind == "layernorm":
            h = h - h.mean(-1, keepdims=True)
        return np.asarray(h / s)

    return y, back


def draw(layer: Linear, rng: np.random.Generator) -> Floats:
    return rng.standard_normal((layer.d_in, layer.d_out)) * math.sqrt(layer.weight_var)


def attention(layer: Attention, x: Floats, rng: np.random.Generator) -> tuple[Floats, Back]:
    b, n, _ = x.shape
    w = [draw(one, rng) for one in (layer.query, layer.key, layer.value, layer.output)]
    group = layer.n_heads // layer.n_kv_heads

    def split(y: Floats, heads: int) -> Floats:
        return y.reshape(b, n, heads, layer.d_head).transpose(0, 2, 1, 3)

    def join(y: Floats) -> Floats:
        return y.transpose(0, 2, 1, 3).reshape(b, n, -1)

    def gathered(y: Floats) -> Floats:
        return y.reshape(b, layer.n_kv_heads, group, n, layer.d_head).sum(axis=2)

    q = split(x @ w[0], layer.n_heads)
    k = np.repeat(split(x @ w[1], layer.n_kv_heads), group, axis=1)
    v = np.repeat(split(x @ w[2], layer.n_kv_heads), group, axis=1)
    scores = q @ k.swapaxes(-1, -2) * layer.score_scale
    if layer.causal:
        scores = np.where(np.tril(np.ones((n, n), dtype=bool)), scores, -np.inf)
    a = np.exp(scores - scores.max(-1, keepdims=True))
    a /= a.sum(-1, keepdims=True)

    def back(g: Floats) -> Floats:
        g_out = split(g @ w[3].T, layer.n_heads)
        e = g_out @ v.swapaxes(-1, -2)
        s = a * (e - (a * e).sum(-1, keepdims=True)) * layer.score_scale
        g_q = join(s @ k) @ w[0].T
        g_k = join(gathered(s.swapaxes(-1, -2) @ q)) @ w[1].T
        return np.asarray(g_q + g_k + join(gathered(a.swapaxes(-1, -2) @ g_out)) @ w[2].T)

    return join(a @ v) @ w[3], back


def activation(name: str, u: Floats) -> tuple[Floats, Floats]:
    if name == "relu":
        return np.maximum(u, 0), (u > 0).astype(np.float64)
    if name == "silu":
        s = 1 / (1 + np.exp(-u))
        return u * s, s * (1 + u * (1 - s))
    phi = 0.5 * (1 + np.vectorize(math.erf)(u / math.sqrt(2)))
    return u * phi, phi + u * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)


def feed_forward(layer: FeedForward, x: Floats, rng: np.random.Generator) -> tuple[Floats, Back]:
    up, down = draw(layer.up, rng), draw(layer.down, rng)
    gate = None if layer.gate is None else draw(layer.gate, rng)
    inner = x @ (up if gate is None else gate)
    value, slope = activation(layer.activation, inner)
    lifted = x @ up if gate is not None else np.ones_like(value)

    def back(g: Floats) -> Floats:
        h = g @ down.T
        if gate is None:
            return np.asarray((h * slope) @ up.T)
        return np.asarray((h * slope * lifted) @ gate.T + (h * value) @ up.T)

    return (value * lifted) @ down, back
