"""Weight variances that give a branch unit variance."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dslm.duals import dual_of
from dslm.kernels.block import block_forward
from dslm.kernels.grid import mean_diagonal
from dslm.spec import Activation, Attention, Block, FeedForward, Kernel, Linear, Norm, Residual

BISECTIONS = 60


def fit_block(x: Kernel, block: Block, d_model: int) -> tuple[Block, Kernel]:
    """Return `block` with branches of unit variance on the stream `x`, and the stream after it."""
    unit = replace(block, attention=_unit_attention(block.attention))
    gain = mean_diagonal(block_forward(x, unit, d_model)[0].branch)
    attention = _times_attention(unit.attention, 1 / gain)
    feed_forward = _fit_feed_forward(block.feed_forward, block.feed_forward_residual.p_drop)
    fitted = replace(block, attention=attention, feed_forward=feed_forward)
    return fitted, block_forward(x, fitted, d_model)[-1].y


def _fit_feed_forward(layer: FeedForward, p_residual: float) -> FeedForward:
    kept = (1 - layer.p_drop) * (1 - p_residual)
    if layer.gate is not None:
        down = kept / (layer.down.d_in * _second_moment(layer.activation, 1.0))
        up, gate = with_var(layer.up, 1 / layer.up.d_in), with_var(layer.gate, 1 / layer.up.d_in)
        return replace(layer, up=up, gate=gate, down=with_var(layer.down, down))
    low, high = 1e-6, 1e6
    for _ in range(BISECTIONS):  # in the logarithm of the hidden variance d·sigma_1²
        middle = math.sqrt(low * high)
        out = layer.down.d_in * middle / layer.up.d_in * _second_moment(layer.activation, middle)
        low, high = (middle, high) if out < kept else (low, middle)
    shared = math.sqrt(low * high) / layer.up.d_in
    return replace(layer, up=with_var(layer.up, shared), down=with_var(layer.down, shared))


def _second_moment(activation: Activation, variance: float) -> float:
    v = np.array(variance)
    return float(dual_of(activation).value(v, v, v))


def with_residuals(block: Block, lam: float, beta: float) -> Block:
    """Return `block` with these residual amplitudes and plain norms."""

    def scaled(residual: Residual) -> Residual:
        return replace(residual, lam=lam, beta=beta)

    def plain(norm: Norm) -> Norm:
        return replace(norm, gain_mean=1.0, gain_var=0.0, bias_var=0.0)

    return replace(
        block,
        attention_norm=plain(block.attention_norm),
        attention_residual=scaled(block.attention_residual),
        feed_forward_norm=plain(block.feed_forward_norm),
        feed_forward_residual=scaled(block.feed_forward_residual),
    )


def _unit_attention(layer: Attention) -> Attention:
    return replace(
        layer,
        query=with_var(layer.query, 1 / layer.query.d_in),
        key=with_var(layer.key, 1 / layer.key.d_in),
        value=with_var(layer.value, 1 / layer.value.d_in),
        output=with_var(layer.output, 1 / layer.output.d_in),
    )


def _times_attention(layer: Attention, gain: float) -> Attention:
    value, output = layer.value, layer.output
    half = math.sqrt(gain)
    value = with_var(value, value.weight_var * half)
    return replace(layer, value=value, output=with_var(output, output.weight_var * half))


def with_var(linear: Linear, weight_var: float) -> Linear:
    """Return `linear` with these weights and no bias."""
    return replace(linear, weight_var=weight_var, bias_var=0.0)
