"""The standard deviations DeepScaleLM asks for, for one stack and the kernel of its input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

import dslm
from dslm.spec import Block, FeedForward, Linear, ModelSpec, Norm, Residual, Stack

K, ALPHA = 2.0, 1.0  # beta² = K / N^ALPHA, the paper's choice for every depth
MAX_BETA_SQUARED = 0.5  # shallower than four blocks: skip and branch weigh the same
ROUNDS = 20
CLOSE = 5e-3


def residual_scales(n_blocks: int) -> tuple[float, float]:
    """(lam, beta) with lam² + beta² = 1; arXiv 2403.09635, section 4."""
    beta_squared = min(K / n_blocks**ALPHA, MAX_BETA_SQUARED)
    return math.sqrt(1 - beta_squared), math.sqrt(beta_squared)


def planned(stack: Stack, lam: float, beta: float) -> tuple[Block, ...]:
    """The blocks with weight variances that give every branch variance 1 - p.

    p is the branch's residual dropout, which brings the variance back to 1. Queries and keys
    have unit variance. Values and outputs share one standard deviation, so do up and down. The
    paper has closed forms for ReLU and a scalar correlation; here the same condition is met on
    the position-resolved prediction, so it holds for causal masks and any activation.
    """
    blocks = tuple(_start(b, lam, beta) for b in stack.blocks if b is not None)
    for _ in range(ROUNDS):
        seen = dslm.predict(_spec(replace(stack, blocks=blocks))).stacks["decoder"]
        targets = [
            (_target(b.attention_residual), _target(b.feed_forward_residual)) for b in blocks
        ]
        variances = np.stack([seen.attention_variance, seen.feed_forward_variance], axis=1)
        gains = np.array(targets) / variances
        blocks = tuple(_rescaled(b, *map(float, g)) for b, g in zip(blocks, gains, strict=True))
        if np.abs(gains - 1).max() < CLOSE:
            break
    return blocks


def _spec(stack: Stack) -> ModelSpec:
    return ModelSpec(family="custom", stacks={"decoder": stack})


def _target(residual: Residual) -> float:
    return 1 - residual.p_drop


def _start(block: Block, lam: float, beta: float) -> Block:
    attention, feed_forward = block.attention, block.feed_forward
    return replace(
        block,
        attention=replace(
            attention,
            query=_unit(attention.query),
            key=_unit(attention.key),
            value=_unit(attention.value),
            output=_unit(attention.output),
        ),
        attention_norm=_plain(block.attention_norm),
        attention_residual=replace(block.attention_residual, lam=lam, beta=beta),
        feed_forward=_start_feed_forward(feed_forward),
        feed_forward_norm=_plain(block.feed_forward_norm),
        feed_forward_residual=replace(block.feed_forward_residual, lam=lam, beta=beta),
    )


def _start_feed_forward(layer: FeedForward) -> FeedForward:
    if layer.gate is not None:  # a gate is no power of its input: unit variance into it
        gate = _unit(layer.gate)
        return replace(layer, up=_unit(layer.up), gate=gate, down=_unit(layer.down))
    shared = 1 / math.sqrt(layer.up.d_in * layer.up.d_out)
    up = replace(layer.up, weight_var=shared, bias_var=0.0)
    return replace(layer, up=up, down=replace(layer.down, weight_var=shared, bias_var=0.0))


def _unit(linear: Linear) -> Linear:
    return replace(linear, weight_var=1 / linear.d_in, bias_var=0.0)


def _plain(norm: Norm) -> Norm:
    return replace(norm, gain_mean=1.0, gain_var=0.0, bias_var=0.0)


def _rescaled(block: Block, attention_gain: float, feed_forward_gain: float) -> Block:
    """Multiply the two branches' variances, half of it in each of a branch's two maps."""
    attention, feed_forward = block.attention, block.feed_forward
    half = math.sqrt(attention_gain)
    attention = replace(
        attention, value=_times(attention.value, half), output=_times(attention.output, half)
    )
    if feed_forward.gate is not None:
        feed_forward = replace(feed_forward, down=_times(feed_forward.down, feed_forward_gain))
    else:
        half = math.sqrt(feed_forward_gain)
        feed_forward = replace(
            feed_forward, up=_times(feed_forward.up, half), down=_times(feed_forward.down, half)
        )
    return replace(block, attention=attention, feed_forward=feed_forward)


def _times(linear: Linear, gain: float) -> Linear:
    return replace(linear, weight_var=linear.weight_var * gain)


def stds(block: Block) -> Mapping[str, float]:
    """Standard deviation by role."""
    attention, feed_forward = block.attention, block.feed_forward
    linears = {
        "query": attention.query,
        "key": attention.key,
        "value": attention.value,
        "output": attention.output,
        "up": feed_forward.up,
        "down": feed_forward.down,
    }
    if feed_forward.gate is not None:
        linears["gate"] = feed_forward.gate
    return {role: math.sqrt(linear.weight_var) for role, linear in linears.items()}
