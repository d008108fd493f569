"""The head: from a stack's output to the logits, and the loss's gradient back to that output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dslm.duals import dual_of
from dslm.duals.partition import concentration
from dslm.kernels.block import Layer
from dslm.kernels.grid import affine, dropout, map_pairs, mean_diagonal, multiply
from dslm.kernels.lengths import random_lengths
from dslm.kernels.linear import linear, linear_backward
from dslm.kernels.loss import TiedRow, expected_loss, logit_gradient, tied_logit
from dslm.kernels.norm import centre, norm, norm_backward
from dslm.spec import Floats, Head, HeadLayer, Kernel, Norm, Stack


@dataclass(frozen=True, slots=True)
class HeadPass:
    """The results of a pass through the head and back.

    Attributes:
        gradient: kernel of dLoss/d(last block's output), in absolute units.
        logit_variance: variance of one token's logits over the classes, averaged over labelled
            tokens.
        loss: the expected cross-entropy.
    """

    gradient: Kernel
    logit_variance: float
    loss: float


@dataclass(frozen=True, slots=True)
class _Step:
    """The kernels of one head layer's forward pass.

    Attributes:
        layer: the layer.
        hidden: before its activation.
        centred: before its norm, centred.
        y: its output.
        width: features of that.
    """

    layer: HeadLayer
    hidden: Kernel
    centred: Kernel
    y: Kernel
    width: int


def head_pass(stack: Stack, layers: list[Layer]) -> HeadPass | None:
    """Return the pass through the stack's head; None without a head, or without a top layer."""
    if stack.head is None or len(layers) < len(stack.blocks):
        return None
    head, top = stack.head, layers[-1][-1].y if layers else stack.input_kernel
    steps = _forward(top, head, stack.d_model)
    h = steps[-1].y if steps else top
    raw = affine(linear(h, head.output), head.scale**2)
    tied = tied_logit(head, _tied_row(stack, layers, steps, top), top)
    gradient, logits = logit_gradient(raw, head, tied)
    gradient = linear_backward(affine(gradient, head.scale**2), head.output)
    if not (steps and steps[-1].layer.norm):  # a norm right below would remove it again
        gradient = _add_tilt(gradient, h, logits, head)
    for step in reversed(steps):
        gradient = _backward(gradient, step)
    counted = head.labels.counted.diagonal * top.cell_sizes
    variance = float(counted @ logits.diagonal / counted.sum())
    loss = expected_loss(logits, head, tied, counted / counted.sum())
    return HeadPass(gradient, variance, loss)


def _forward(x: Kernel, head: Head, d_model: int) -> list[_Step]:
    steps: list[_Step] = []
    for layer in head.layers:
        width = d_model if layer.linear is None else layer.linear.d_out
        hidden = x if layer.linear is None else linear(x, layer.linear)
        centred = centre(_activated(hidden, layer), layer.norm, width)
        x = dropout(norm(centred, layer.norm), layer.p_drop)
        steps.append(_Step(layer, hidden, centred, x, width))
        d_model = width
    return steps


def _activated(u: Kernel, layer: HeadLayer) -> Kernel:
    """Return the kernel after the activation, with the mean that a LayerNorm then removes."""
    if layer.activation == "identity":
        return u
    value = dual_of(layer.activation).value
    v = np.array(mean_diagonal(u))
    # E φ(u) φ(v) of independent u and v is the squared mean, for any activation
    mean = np.sqrt(np.maximum(value(v, v, np.zeros(())), 0.0))
    return map_pairs(u, value, float(mean))


def _backward(g: Kernel, step: _Step) -> Kernel:
    layer = step.layer
    g = dropout(g, layer.p_drop)
    lengths = random_lengths(step.centred, step.width)
    g = norm_backward(g, step.centred, layer.norm, step.width, lengths=lengths)
    if layer.activation != "identity":
        g = multiply(g, map_pairs(step.hidden, dual_of(layer.activation).slope))
    return g if layer.linear is None else linear_backward(g, layer.linear)


def _tied_row(stack: Stack, layers: list[Layer], steps: list[_Step], top: Kernel) -> TiedRow | None:
    r"""Return the amplitude of the token's row of a tied weight, in the stream and at the logits.

    Skips multiply it by :math:`\lambda`, norms on the stream by gain over divisor. The output of a
    branch or dense layer has no more in common with any row, so a dense layer in the head ends it.
    """
    assert stack.head is not None
    dense = any(s.layer.linear or s.layer.activation != "identity" for s in steps)
    if stack.head.tied == 0 or dense:
        return None
    in_stream = np.full(len(top.diagonal), stack.head.tied)  # at block 0's input
    for layer in layers:
        for sub in layer:
            lam = 1.0 if sub.placement.parallel else sub.placement.residual.lam
            in_stream = in_stream * lam * _gain(sub.summed, sub.placement.on_sum)
    at_logits = in_stream
    for step in steps:
        at_logits = at_logits * _gain(step.centred, step.layer.norm)
    return TiedRow(in_stream, at_logits)


def _gain(x: Kernel, layer: Norm | None) -> Floats:
    if layer is None:
        return np.ones(len(x.diagonal))
    return np.asarray(layer.gain_mean / np.sqrt(x.diagonal + layer.eps))


def _add_tilt(g: Kernel, h: Kernel, logits: Kernel, head: Head) -> Kernel:
    r"""Add the gradient's component along h, which the softmax's dependence on h brings about.

    .. math:: E\Big[\textstyle\sum_v p_v w_v\Big] = c\,\sigma_w^2 (1 - D) h

    by Stein's lemma, c being the logits' scale. A norm right below removes this component.
    """
    overlaps = concentration(logits.diagonal, np.array(float(head.output.d_out)))
    lean = head.labels.weight * head.scale**2 * head.output.weight_var * (1 - overlaps.self_overlap)
    counted = head.labels.counted
    return replace(
        g,
        diagonal=g.diagonal + lean**2 * counted.diagonal * h.diagonal,
        off_diagonal=g.off_diagonal + np.outer(lean, lean) * counted.off_diagonal * h.off_diagonal,
    )
