"""Weight variances that give each branch of a block unit variance."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dslm.duals import dual_of
from dslm.kernels.block import Layer, block_forward
from dslm.kernels.grid import mean_diagonal
from dslm.spec import (
    Activation,
    Attention,
    Block,
    CrossAttention,
    FeedForward,
    Kernel,
    Linear,
    Norm,
    Residual,
)

BISECTIONS = 60
NORMED = frozenset({"sandwich", "branch"})  # placements with a norm on the branch's output


@dataclass(frozen=True, slots=True)
class Amplitudes:
    """One residual step, x ← lam·x + beta·f(x)."""

    lam: float
    beta: float


def fit_block(
    x: Kernel, block: Block, d_model: int, memory: Kernel | None = None
) -> tuple[Block, Layer]:
    r"""Return `block` with branches of unit variance on the stream `x`, and its forward pass.

    Scores get unit variance; values and outputs then make up for the attention's averaging. A
    branch's raw output is homogeneous of degree two in :math:`\sigma_v, \sigma_o`, so one forward
    pass with unit projections gives the factor. Cross-attention takes a second pass, as its input
    depends on the branch before it.
    """
    fitted = replace(
        block, feed_forward=scalar_feed_forward(block.feed_forward, raw_variance(block, -1))
    )
    fitted = with_attentions(fitted, [unit_attention(a) for a in attentions(block)])
    weights = None
    for index in range(len(attentions(block))):
        layer = block_forward(x, fitted, d_model, memory, weights)
        weights = layer[0].weights
        gain = mean_diagonal(layer[index].raw) / raw_variance(block, index)
        projections = attentions(fitted)
        projections[index] = times_attention(projections[index], 1 / gain)
        fitted = with_attentions(fitted, projections)
    return fitted, block_forward(x, fitted, d_model, memory, weights)


def scalar_block(block: Block, averaging: Sequence[float]) -> Block:
    r"""Return `block` with branches of unit variance by the scalar forms.

    .. math:: \sigma_v^2 \sigma_o^2\, d\, n_h d_h\, \bar r/(1-p) = 1

    `averaging` holds :math:`\bar r`, the share of the variance that uniform attention leaves, for
    each attention.

    Source: arXiv 2403.09635, §4.
    """
    fitted = replace(
        block, feed_forward=scalar_feed_forward(block.feed_forward, raw_variance(block, -1))
    )
    projections = [
        times_attention(
            unit_attention(layer), raw_variance(block, index) * (1 - layer.p_drop) / left
        )
        for index, (layer, left) in enumerate(zip(attentions(block), averaging, strict=True))
    ]
    return with_attentions(fitted, projections)


def attentions(block: Block) -> list[Attention]:
    """Return the block's attention layers, first to last."""
    return [block.attention, *([block.cross.attention] if block.cross else [])]


def residuals(block: Block) -> list[Residual]:
    """Return the block's residual steps, first to last."""
    crossing = [block.cross.residual] if block.cross else []
    return [block.attention_residual, *crossing, block.feed_forward_residual]


def stepped(step: Residual, cov: float, variance: float, branch: float) -> tuple[float, float]:
    """Return covariance and variance of the stream after a branch of unit variance.

    `branch` is the covariance of the branch's output between tokens.
    """
    skip, share = step.lam**2, step.beta**2
    return skip * cov + share * branch, skip * variance + share


def with_attentions(block: Block, layers: Sequence[Attention]) -> Block:
    """Return `block` with these attention layers."""
    cross = block.cross and replace(block.cross, attention=layers[1])
    return replace(block, attention=layers[0], cross=cross)


def with_residuals(block: Block, steps: Sequence[Amplitudes]) -> Block:
    r"""Return `block` with these residual steps and plain norms.

    Gains are 1, except for a norm on a branch's output (sandwich, branch). Dropout after it raises
    the branch's variance to :math:`\gamma^2/(1-p)`, so there :math:`\gamma = \sqrt{1-p}`.
    """
    first, last = block.attention_residual, block.feed_forward_residual
    on_branch = block.placement == "branch"
    return replace(
        block,
        attention=_plain_attention(block.attention),
        attention_norm=_optional(block.attention_norm, first.p_drop * on_branch),
        attention_out_norm=_optional(block.attention_out_norm, first.p_drop),
        attention_residual=replace(first, lam=steps[0].lam, beta=steps[0].beta),
        feed_forward_norm=_plain(block.feed_forward_norm, last.p_drop * on_branch),
        feed_forward_out_norm=_optional(block.feed_forward_out_norm, last.p_drop),
        feed_forward_residual=replace(last, lam=steps[-1].lam, beta=steps[-1].beta),
        cross=_cross(block.cross, steps[1], on_branch) if block.cross else None,
    )


def _cross(cross: CrossAttention, step: Amplitudes, on_branch: bool) -> CrossAttention:
    residual = replace(cross.residual, lam=step.lam, beta=step.beta)
    return replace(
        cross,
        attention=_plain_attention(cross.attention),
        norm=_plain(cross.norm, residual.p_drop * on_branch),
        out_norm=_optional(cross.out_norm, residual.p_drop),
        residual=residual,
    )


def _plain(norm: Norm, p_drop: float = 0.0) -> Norm:
    return replace(norm, gain_mean=math.sqrt(1 - p_drop), gain_var=0.0, bias_var=0.0)


def _optional(norm: Norm | None, p_drop: float = 0.0) -> Norm | None:
    return norm and _plain(norm, p_drop)


def _plain_attention(layer: Attention) -> Attention:
    query_norm, key_norm = _optional(layer.query_norm), _optional(layer.key_norm)
    return replace(layer, query_norm=query_norm, key_norm=key_norm)


def raw_variance(block: Block, index: int) -> float:
    """Return the variance that a raw branch must have to be of unit variance after its dropout.

    A norm in between makes up for any dropout: there it is 1.
    """
    return 1.0 if block.placement in NORMED else 1 - residuals(block)[index].p_drop


def scalar_feed_forward(layer: FeedForward, variance: float) -> FeedForward:
    """Return `layer` with a raw output of this variance on unit input, equal up and down."""
    target = (1 - layer.p_drop) * variance
    if layer.gate is not None:
        down = target / (layer.down.d_in * second_moment(layer.activation, 1.0))
        up, gate = with_var(layer.up, 1 / layer.up.d_in), with_var(layer.gate, 1 / layer.up.d_in)
        return replace(layer, up=up, gate=gate, down=with_var(layer.down, down))
    low, high = 1e-6, 1e6  # the output grows with the hidden variance for every activation here
    for _ in range(BISECTIONS):  # in the logarithm of the hidden variance d·sigma_1²
        middle = math.sqrt(low * high)
        out = layer.down.d_in * middle / layer.up.d_in * second_moment(layer.activation, middle)
        low, high = (middle, high) if out < target else (low, middle)
    shared = math.sqrt(low * high) / layer.up.d_in
    return replace(layer, up=with_var(layer.up, shared), down=with_var(layer.down, shared))


@functools.lru_cache(maxsize=4096)  # a bisection asks 60 times, and layers repeat
def second_moment(activation: Activation, variance: float, corr: float = 1.0) -> float:
    r"""Return :math:`E[\phi(u)\phi(v)]` for zero-mean normals of this variance and correlation."""
    v = np.array(variance)
    return float(dual_of(activation).value(v, v, corr * v))


def unit_attention(layer: Attention) -> Attention:
    r"""Return `layer` with scores, values and outputs of unit variance on unit inputs.

    .. math:: d\sigma_q^2 = d\sigma_k^2 = 1/(a \sqrt{d_h})

    for scores :math:`a\,q \cdot k`. With :math:`a = 1/\sqrt{d_h}` this is 1; with T5's a = 1 it is
    T5's initialisation. With norms on queries and keys the choice has no effect, and is 1.

    Source: arXiv 2403.09635, §4, for any a derived here.
    """
    normed = layer.query_norm is not None or layer.key_norm is not None
    scale = abs(layer.score_scale) * math.sqrt(layer.d_head)
    unit = 1.0 if normed or scale == 0 else 1 / scale
    return replace(
        layer,
        query=with_var(layer.query, unit / layer.query.d_in),
        key=with_var(layer.key, unit / layer.key.d_in),
        value=with_var(layer.value, 1 / layer.value.d_in),
        output=with_var(layer.output, 1 / layer.output.d_in),
    )


def times_attention(layer: Attention, gain: float) -> Attention:
    """Return `layer` with `gain` times the output variance, its root on either projection."""
    value, output = layer.value, layer.output
    half = math.sqrt(gain)
    value = with_var(value, value.weight_var * half)
    return replace(layer, value=value, output=with_var(output, output.weight_var * half))


def with_var(linear: Linear, weight_var: float) -> Linear:
    """Return `linear` with this weight variance and no bias."""
    return replace(linear, weight_var=weight_var, bias_var=0.0)
