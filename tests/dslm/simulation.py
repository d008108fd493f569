"""A random transformer in NumPy, with its gradient, to hold the theory against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dslm import Attention, Block, FeedForward, Kernel, Linear, Norm, Residual, Stack
from dslm.kernels.scores import rotary_frequencies
from dslm.position_bias import bias_at

Floats = NDArray[np.float64]
Back = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Measured:
    """Moments of stream and gradient at the N + 1 places; kernels of the first and the last."""

    variance: Floats
    correlation: Floats
    grad_variance: Floats
    grad_correlation: Floats
    output: Floats
    grad_memory: Floats


def kernel_of(x: Floats) -> Kernel:
    matrix = np.einsum("bid,bjd->ij", x, x) / (x.shape[0] * x.shape[2])
    ones = np.ones(x.shape[1], dtype=np.int64)
    return Kernel(np.diagonal(matrix).copy(), matrix, ones, float(x.mean()))


def moments(x: Floats) -> tuple[float, float]:
    mean, n = x.mean(), x.shape[1]
    var = np.square(x).mean() - mean**2
    off = (np.square(x.sum(axis=1)).mean() / n - np.square(x).mean()) / (n - 1)
    return float(var), float((off - mean**2) / var)


def simulate(
    stack: Stack,
    x: Floats,
    g: Floats,
    rng: np.random.Generator,
    memory: Floats | None = None,
) -> Measured:
    """Draw the stack's weights, run `x` forward and `g` back; `memory` is what it reads."""
    streams, tapes = [x], []
    for block in stack.blocks:
        assert block is not None
        x, tape = block_forward(block, x, rng, memory)
        streams.append(x)
        tapes.append(tape)
    gradients, below_memory = [g], np.zeros_like(x if memory is None else memory)
    for tape in reversed(tapes):
        for step in reversed(tape):
            g, at_memory = step(g)
            below_memory = below_memory + at_memory
        gradients.append(g)
    forward = np.array([moments(s) for s in streams])
    backward = np.array([moments(s) for s in gradients[::-1]])
    relative = backward[:, 0] / backward[-1, 0]
    return Measured(
        forward[:, 0], forward[:, 1], relative, backward[:, 1], streams[-1], below_memory
    )


def unchanged(h: Floats) -> Floats:
    return h


Branch = tuple[Attention | FeedForward, Norm | None, Norm | None, Residual, Floats | None]
Step = Callable[[Floats], tuple[Floats, Floats]]
NOTHING = np.zeros(1)


def branches_of(block: Block, memory: Floats | None) -> list[Branch]:
    branches: list[Branch] = [
        (
            block.attention,
            block.attention_norm,
            block.attention_out_norm,
            block.attention_residual,
            None,
        ),
        (
            block.feed_forward,
            block.feed_forward_norm,
            block.feed_forward_out_norm,
            block.feed_forward_residual,
            None,
        ),
    ]
    if block.cross is not None:
        c = block.cross
        branches.insert(1, (c.attention, c.norm, c.out_norm, c.residual, memory))
    return branches


def block_forward(
    block: Block, x: Floats, rng: np.random.Generator, memory: Floats | None = None
) -> tuple[Floats, list[Step]]:
    """Return the block's output and its backward steps, first one first."""
    branches = branches_of(block, memory)
    if block.placement == "parallel":
        (f, f_back), (h, h_back) = (whole_branch(branch, "pre", x, rng=rng) for branch in branches)
        lam, a, b = branches[0][3].lam, branches[0][3].beta, branches[1][3].beta

        def both(g: Floats) -> tuple[Floats, Floats]:
            return lam * g + a * f_back(g)[0] + b * h_back(g)[0], NOTHING

        return lam * x + a * f + b * h, [both]
    tape: list[Step] = []
    for branch in branches:
        residual = branch[3]
        f, back = whole_branch(branch, block.placement, x, rng=rng)
        x, after = residual.lam * x + residual.beta * f, unchanged
        if block.placement == "post":
            x, after = normed(branch[1], x)
        tape.append(partial(step_back, residual, after, back))
    return x, tape


def whole_branch(
    branch: Branch, placement: str, x: Floats, *, rng: np.random.Generator
) -> tuple[Floats, Step]:
    """The branch with the norms on its input and on its output."""
    layer, norm, out, _, memory = branch
    first = second = unchanged
    if placement in ("pre", "sandwich"):
        x, first = normed(norm, x)
    if isinstance(layer, Attention):
        y, back = attention(layer, x, rng, memory)
    else:
        y, back = feed_forward(layer, x, rng)
    if placement in ("sandwich", "branch"):
        y, second = normed(out or norm, y)

    def whole_back(g: Floats) -> tuple[Floats, Floats]:
        below, at_memory = back(second(g))
        return first(below), at_memory

    return y, whole_back


def step_back(residual: Residual, after: Back, back: Step, h: Floats) -> tuple[Floats, Floats]:
    h = after(h)
    below, at_memory = back(h)
    return residual.lam * h + residual.beta * below, residual.beta * at_memory


def normed(norm: Norm | None, x: Floats) -> tuple[Floats, Back]:
    if norm is None:
        return x, unchanged
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


def attention(
    layer: Attention, x: Floats, rng: np.random.Generator, memory: Floats | None = None
) -> tuple[Floats, Step]:
    """Return the output, and the step from its gradient to those of `x` and of `memory`."""
    b = x.shape[0]
    read = x if memory is None else memory
    w = [
        draw(projection, rng) for projection in (layer.query, layer.key, layer.value, layer.output)
    ]
    group = layer.n_heads // layer.n_kv_heads

    def split(y: Floats, heads: int) -> Floats:
        return y.reshape(b, y.shape[1], heads, layer.d_head).transpose(0, 2, 1, 3)

    def join(y: Floats) -> Floats:
        return y.transpose(0, 2, 1, 3).reshape(b, y.shape[2], -1)

    def gathered(y: Floats) -> Floats:
        return y.reshape(b, layer.n_kv_heads, group, -1, layer.d_head).sum(axis=2)

    q, q_back = maybe_normed(layer.query_norm, split(x @ w[0], layer.n_heads))
    k, k_back = maybe_normed(layer.key_norm, split(read @ w[1], layer.n_kv_heads))
    (q, q_turn), (k, k_turn) = turned(layer, q), turned(layer, k)
    k = np.repeat(k, group, axis=1)
    v = np.repeat(split(read @ w[2], layer.n_kv_heads), group, axis=1)
    scores, slope = capped(q @ k.swapaxes(-1, -2) * layer.score_scale, layer.soft_cap)
    scores = scores + bias_of(layer, q.shape[2], k.shape[2])
    scores = np.where(visible(layer, q.shape[2], k.shape[2]), scores, -np.inf)
    a = np.exp(scores - scores.max(-1, keepdims=True))
    a /= a.sum(-1, keepdims=True)

    def back(g: Floats) -> tuple[Floats, Floats]:
        g_out = split(g @ w[3].T, layer.n_heads)
        e = g_out @ v.swapaxes(-1, -2)
        s = a * (e - (a * e).sum(-1, keepdims=True)) * slope * layer.score_scale
        g_q = join(q_back(q_turn(s @ k))) @ w[0].T
        g_k = join(k_back(k_turn(gathered(s.swapaxes(-1, -2) @ q)))) @ w[1].T
        g_read = g_k + join(gathered(a.swapaxes(-1, -2) @ g_out)) @ w[2].T
        return (g_q + g_read, NOTHING) if memory is None else (g_q, g_read)

    return join(a @ v) @ w[3], back


def maybe_normed(norm: Norm | None, x: Floats) -> tuple[Floats, Back]:
    return (x, unchanged) if norm is None else normed(norm, x)


def capped(scores: Floats, cap: float | None) -> tuple[Floats, Floats]:
    if cap is None:
        return scores, np.ones_like(scores)
    return cap * np.tanh(scores / cap), 1 - np.tanh(scores / cap) ** 2


def visible(layer: Attention, n_queries: int, n_keys: int) -> Floats:
    back = np.arange(n_queries)[:, None] - np.arange(n_keys)[None, :]
    window = layer.window
    if layer.causal:
        past = (back >= 0) & (back < (window or n_keys))
        return past | (np.arange(n_keys) < layer.prefix)
    return np.abs(back) <= (window or n_keys + n_queries)


def bias_of(layer: Attention, n_queries: int, n_keys: int) -> Floats:
    """Every head's bias, (heads, queries, keys)."""
    if layer.position_bias is None:
        return np.zeros((1, 1, 1))
    back = np.arange(n_queries)[:, None] - np.arange(n_keys)[None, :]
    return np.repeat(bias_at(layer.position_bias, back), layer.position_bias.heads, axis=0)


def turned(layer: Attention, x: Floats) -> tuple[Floats, Back]:
    """Queries or keys (batch, heads, seq, d_head) after the rotary embedding."""
    if layer.rotary is None:
        return x, unchanged
    rates = rotary_frequencies(layer.rotary, layer.d_head)
    half = len(rates)
    angle = np.outer(np.arange(x.shape[2]), rates)
    turn = layer.rotary.scale * np.exp(1j * angle)

    def apply(y: Floats, by: NDArray[np.complex128]) -> Floats:
        pairs = (y[..., :half] + 1j * y[..., half : 2 * half]) * by
        return np.concatenate([pairs.real, pairs.imag, y[..., 2 * half :]], axis=-1)

    return apply(x, turn), lambda h: apply(h, turn.conj())


def activation(name: str, u: Floats) -> tuple[Floats, Floats]:
    if name == "relu":
        return np.maximum(u, 0), (u > 0).astype(np.float64)
    if name == "silu":
        s = 1 / (1 + np.exp(-u))
        return u * s, s * (1 + u * (1 - s))
    phi = 0.5 * (1 + np.vectorize(math.erf)(u / math.sqrt(2)))
    return u * phi, phi + u * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)


def feed_forward(layer: FeedForward, x: Floats, rng: np.random.Generator) -> tuple[Floats, Step]:
    up, down = draw(layer.up, rng), draw(layer.down, rng)
    gate = None if layer.gate is None else draw(layer.gate, rng)
    inner = x @ (up if gate is None else gate)
    value, slope = activation(layer.activation, inner)
    lifted = x @ up if gate is not None else np.ones_like(value)

    def back(g: Floats) -> tuple[Floats, Floats]:
        h = g @ down.T
        if gate is None:
            return (h * slope) @ up.T, NOTHING
        return (h * slope * lifted) @ gate.T + (h * value) @ up.T, NOTHING

    return (value * lifted) @ down, back
