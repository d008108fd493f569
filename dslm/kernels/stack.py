"""A stack of blocks, forward and backward, on kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np

from dslm.kernels.alignment import ISOTROPIC
from dslm.kernels.block import Layer, block_backward, block_forward
from dslm.kernels.grid import add, dropout, prepare, variance
from dslm.kernels.lengths import random_lengths
from dslm.kernels.norm import centre, norm, norm_backward
from dslm.spec import Kernel, Stack

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def stack_forward(
    stack: Stack, memory: Kernel | None = None, lowest: Sequence[Layer] = ()
) -> list[Layer]:
    """Return the layers below the first that is not understood, lacks its memory, or overflows.

    `lowest` are layers of the first blocks, where they have been computed.
    """
    layers = list(lowest)
    x = layers[-1][-1].y if layers else prepare(stack.input_kernel)
    for block in stack.blocks[len(layers) :]:
        if block is None or (block.cross is not None and memory is None):
            break
        layer = within_floats(block_forward, x, block, stack.d_model, memory)
        if layer is None or not all(_is_finite(sub.y) for sub in layer):
            break
        layers.append(layer)
        x = layer[-1].y
    return layers


def within_floats(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result | None:
    """Return the result of `function`; None where a power of a plain float overflows."""
    # numpy makes such a power infinite, Python raises: both mean that the numbers leave float64
    try:
        return function(*args, **kwargs)
    except OverflowError:
        return None


def _is_finite(kernel: Kernel) -> bool:
    return bool(np.isfinite(kernel.diagonal).all() and np.isfinite(kernel.off_diagonal).all())


def memory_of(stack: Stack, layers: list[Layer]) -> Kernel | None:
    """Return the kernel that a stack reading this one sees; None where the top is not predicted."""
    if len(layers) < len(stack.blocks):
        return None
    top = layers[-1][-1].y if layers else prepare(stack.input_kernel)
    normed = norm(centre(top, stack.final_norm, stack.d_model), stack.final_norm)
    return dropout(normed, stack.final_p_drop)


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradient kernels of a stack.

    Attributes:
        top: at the last block's output.
        blocks: for each of the highest blocks, the kernels below it, between its branches and
            above it. Empty unless every block is understood, complete unless `overflowed`.
        memory: at the output of the stack that it reads, summed over its blocks; None without.
        overflowed: whether the gradient overflows below the lowest of `blocks`.
    """

    top: Kernel
    blocks: tuple[tuple[Kernel, ...], ...]
    memory: Kernel | None = None
    overflowed: bool = False


def stack_backward(
    stack: Stack, layers: list[Layer], arriving: Kernel | None = None, head: Kernel | None = None
) -> Gradients:
    """Return the gradient kernels of a stack.

    `arriving` is the gradient from a stack that reads this one, at its memory; `head` the one from
    the loss, at this stack's output.
    """
    top = top_gradient(stack, layers, arriving, head)
    if len(layers) < len(stack.blocks):
        return Gradients(top, ())
    g, alignment, memory = top, ISOTROPIC, None
    passed: list[tuple[Kernel, ...]] = []
    for layer in reversed(layers):
        below = within_floats(block_backward, g, layer, alignment)
        if below is None or not _is_finite(below.stream[0]):
            return Gradients(top, tuple(passed[::-1]), None, overflowed=True)
        passed.append(below.stream)
        g, alignment = below.stream[0], below.alignment
        if below.memory is not None:
            memory = below.memory if memory is None else add(memory, below.memory)
    return Gradients(top, tuple(passed[::-1]), memory)


def top_gradient(
    stack: Stack, layers: list[Layer], arriving: Kernel | None, head: Kernel | None
) -> Kernel:
    """Return the gradient kernel at the top.

    It is the measured one, else the loss's, else a reader's, else that of independent tokens.
    """
    if stack.top_gradient_kernel is not None:
        return prepare(stack.top_gradient_kernel)
    if head is not None and _is_finite(head) and variance(head) > 0:
        return head
    if arriving is not None and len(layers) == len(stack.blocks):
        return at_output(stack, layers, arriving)
    x = stack.input_kernel
    n = len(x.cell_sizes)
    none = np.zeros((n, n))
    return prepare(replace(x, diagonal=np.ones(n), off_diagonal=none, mean=0.0))


def at_output(stack: Stack, layers: list[Layer], arriving: Kernel) -> Kernel:
    """Return the gradient kernel at the last block's output, from the one at a reader's memory."""
    g, top = dropout(arriving, stack.final_p_drop), prepare(stack.input_kernel)
    top = centre(layers[-1][-1].y if layers else top, stack.final_norm, stack.d_model)
    lengths = random_lengths(top, stack.d_model)
    return norm_backward(g, top, stack.final_norm, stack.d_model, lengths=lengths)


def absolute_scale(
    stack: Stack, layers: list[Layer], arriving: Kernel | None, unit: float, head: Kernel | None
) -> float:
    """Return the variance of dLoss/d(last block's output); NaN without a head on either stack.

    `arriving` is relative to the top of the stack that it comes from; `unit` is the absolute
    variance that 1 stands for there.
    """
    if len(layers) < len(stack.blocks):
        return math.nan
    if head is not None:
        return variance(head)
    return math.nan if arriving is None else unit * variance(at_output(stack, layers, arriving))
