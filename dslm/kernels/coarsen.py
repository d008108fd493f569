"""A stack's kernels on the cells that its masks call for."""

from __future__ import annotations

from dataclasses import replace
from typing import overload

from dslm.kernels.grid import merge_cells, prepare
from dslm.masks.cell_sizes import Sizes, coarse_starts
from dslm.position_bias import few_groups
from dslm.spec import Block, Kernel, Labels, Stack


def coarsen_stack(stack: Stack) -> Stack:
    """Return `stack` with its kernels prepared, on no more cells than `cell_sizes` has."""
    return merge_stack(stack, coarse_starts(stack.input_kernel.cell_sizes, stack.blocks))


def merge_stack(stack: Stack, starts: Sizes) -> Stack:
    """Return `stack` with its kernels prepared, on coarser cells that begin at cells `starts`."""
    return replace(
        stack,
        input_kernel=_coarse(stack.input_kernel, starts),
        top_gradient_kernel=_coarse(stack.top_gradient_kernel, starts),
        head=stack.head and replace(stack.head, labels=_coarse_labels(stack.head.labels, starts)),
    )


def join_heads(stack: Stack, most: int) -> Stack:
    """Return `stack` with its heads in at most `most` groups of the same position bias."""
    joined: dict[int, Block | None] = {}  # most blocks of a stack are the same object
    for block in stack.blocks:
        if id(block) not in joined:
            joined[id(block)] = block and _with_joined_heads(block, most)
    return replace(stack, blocks=tuple(joined[id(block)] for block in stack.blocks))


def _with_joined_heads(block: Block, most: int) -> Block:
    bias = block.attention.position_bias
    if bias is None:
        return block
    attention = replace(block.attention, position_bias=few_groups(bias, most))
    return replace(block, attention=attention)


def _coarse_labels(labels: Labels, starts: Sizes) -> Labels:
    return replace(
        labels,
        counted=_coarse(labels.counted, starts),
        same=_coarse(labels.same, starts),
        same_id=_coarse(labels.same_id, starts),
        label_is_id=_coarse(labels.label_is_id, starts),
    )


@overload
def _coarse(kernel: Kernel, starts: Sizes) -> Kernel: ...
@overload
def _coarse(kernel: None, starts: Sizes) -> None: ...
def _coarse(kernel: Kernel | None, starts: Sizes) -> Kernel | None:
    if kernel is None:
        return None
    kernel = prepare(kernel)
    return kernel if len(starts) == len(kernel.cell_sizes) else merge_cells(kernel, starts)
