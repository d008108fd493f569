"""A whole stack of blocks, forward and backward, on kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dslm.kernels.alignment import ISOTROPIC
from dslm.kernels.block import SubLayer, block_backward, block_forward
from dslm.kernels.grid import on_grid
from dslm.spec import Kernel, Stack

Layer = tuple[SubLayer, SubLayer]


def stack_forward(stack: Stack) -> list[Layer]:
    """Return the layers up to the first block that is not understood."""
    layers: list[Layer] = []
    x = on_grid(stack.input_kernel)
    for block in stack.blocks:
        if block is None:
            break
        layers.append(block_forward(x, block, stack.d_model))
        x = layers[-1][1].y
    return layers


@dataclass(frozen=True, slots=True)
class GradientLayer:
    """Gradient kernels around one block: above it, between its branches, below it."""

    above: Kernel
    between: Kernel
    below: Kernel


def stack_backward(stack: Stack, layers: list[Layer]) -> list[GradientLayer]:
    """Return gradient kernels, first block first; empty unless every block is understood."""
    if len(layers) < len(stack.blocks):
        return []
    g, alignment = top_gradient(stack), ISOTROPIC
    passed: list[GradientLayer] = []
    for layer in reversed(layers):
        between, below, alignment = block_backward(g, layer, alignment)
        passed.append(GradientLayer(g, between, below))
        g = below
    return passed[::-1]


def top_gradient(stack: Stack) -> Kernel:
    """Return the measured kernel, or one of independent tokens when none was measured."""
    if stack.top_gradient_kernel is not None:
        return on_grid(stack.top_gradient_kernel)
    x = stack.input_kernel
    n = len(x.cell_sizes)
    none = np.zeros((n, n))
    return on_grid(replace(x, diagonal=np.ones(n), off_diagonal=none, mean=0.0))
