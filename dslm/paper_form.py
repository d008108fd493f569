r"""DeepScaleLM's closed forms as its authors' code has them, layer by layer.

With p the dropout on a branch's output:

.. math:: \sigma_q^2 = \sigma_k^2 = 1/d, \quad
    \sigma_v^2(l) = \sigma_o^2(l) = \frac{1}{d}\sqrt{\frac{1-p}{r_l}}, \quad
    \sigma_1^4 = \sigma_2^4 = \frac{2(1-p)}{d\, d_{ff}}

with the token correlation :math:`r_0 = 0.221 (1-p)` of the stream into the first layer and

.. math:: r \leftarrow \lambda^2 r + \beta^2 r_{branch}, \quad
    r_{attention} = 1-p, \quad
    r_{ff} = (1-p)\Big(r + \frac{\sqrt{1-r^2} - r\arccos r}{\pi}\Big)

for a stream of unit variance. They assume masked language modelling on words, attention without a
mask and without dropout of its own, and ReLU. What they say nothing of, gates, other shapes of
attention and cross-attention, follows this project's general forms with the same r.

Source: arXiv 2403.09635, §4 and its tables; the constant 0.221 is the authors' measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dslm.spec import Block, FeedForward, Stack
from dslm.unit_branches import (
    Amplitudes,
    attentions,
    raw_variance,
    residuals,
    scalar_feed_forward,
    stepped,
    times_attention,
    unit_attention,
    with_attentions,
    with_residuals,
    with_var,
)

INPUT_CORRELATION = 0.221  # of words in masked language modelling, before dropout
Steps = Sequence[tuple[Amplitudes, ...]]


def paper_blocks(
    stack: Stack, steps: Steps, tops: Mapping[str, float]
) -> tuple[tuple[Block, ...], float]:
    """Return the stack's blocks with the authors' deviations, and the correlation r at the top.

    Args:
        stack: whole, of unit input variance.
        steps: the residual steps of each block.
        tops: r at the top of the stacks that others read, by name.
    """
    first = next(block for block in stack.blocks if block is not None)
    r = INPUT_CORRELATION * (1 - residuals(first)[0].p_drop)
    memory = None if stack.reads is None else tops[stack.reads]
    blocks = []
    for block, block_steps in zip(stack.blocks, steps, strict=True):
        assert block is not None  # `deepscale_stacks` refuses such a stack
        plain = with_residuals(block, block_steps)
        blocks.append(_block(plain, r, memory))
        r = _after(blocks[-1], r)
    return tuple(blocks), r


def _block(block: Block, r: float, memory: float | None) -> Block:
    sources = [r, *([memory] if memory is not None and block.cross else [])]
    layers = [
        times_attention(unit_attention(layer), raw_variance(block, index) / max(source, 1e-12))
        for index, (layer, source) in enumerate(zip(attentions(block), sources, strict=True))
    ]
    feed_forward = _feed_forward(block.feed_forward, raw_variance(block, -1))
    return replace(with_attentions(block, layers), feed_forward=feed_forward)


def _feed_forward(layer: FeedForward, variance: float) -> FeedForward:
    if layer.gate is not None:
        return scalar_feed_forward(layer, variance)
    squared = math.sqrt(2 * variance / (layer.up.d_in * layer.down.d_in))
    return replace(layer, up=with_var(layer.up, squared), down=with_var(layer.down, squared))


def _after(block: Block, r: float) -> float:
    """Return the token correlation behind a block."""
    *first, last = residuals(block)
    variance = 1.0
    for step in first:
        r, variance = stepped(step, r, variance, 1 - step.p_drop)
    r = r / variance
    rectified = r + (math.sqrt(1 - r**2) - r * math.acos(r)) / math.pi
    r, variance = stepped(last, r, 1.0, (1 - last.p_drop) * rectified)
    return min(r / variance, 1.0)
