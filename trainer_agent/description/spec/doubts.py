"""What makes a prediction doubtful though nothing of the model is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from dslm.spec import Missing, Stack

TOP_GRADIENT = "top gradient"
NO_LOSS = (
    "the model's forward returned no loss, so the gradients of different tokens at the last block "
    "are taken as independent and equal in size, which a loss makes them only roughly: the "
    "gradient's curve may be off by tens of percent until a step's gradient is measured"
)


def zero_rows(stacks: Mapping[str, Stack]) -> Iterator[str]:
    """Say which tokens enter a stack as exact zeros, where a norm reads the stream."""
    for name, stack in stacks.items():
        at = np.flatnonzero(stack.input_kernel.diagonal == 0)
        if not len(at):
            continue
        sizes = stack.input_kernel.cell_sizes
        token = int(sizes[: at[0]].sum())
        first = stack.blocks[0] if stack.blocks else None
        norm = None if first is None else first.attention_norm
        divided = "" if norm is None else f", here {norm.eps**0.5:.1g}"
        yield (
            f"{name}: {int(sizes[at].sum())} of {int(sizes.sum())} positions, first token {token}, "
            "enter block 0 as exact zeros in all sequences (a class token or a padding id whose "
            "row is zero): they stay zero through a norm, which divides their gradient by "
            f"\u221aeps{divided}, so the gradient below the first norm is theirs alone"
        )


def assumed_gradients(stacks: Mapping[str, Stack]) -> Iterator[Missing]:
    """Name the stacks whose top gradient is neither measured nor known from a head or a reader."""
    read = {stack.reads for stack in stacks.values()}
    for name, stack in stacks.items():
        known = stack.top_gradient_kernel is not None or stack.head is not None or name in read
        if not known and any(block is not None for block in stack.blocks):
            yield Missing(f"{name}.stream[{len(stack.blocks)}]", TOP_GRADIENT, NO_LOSS)
