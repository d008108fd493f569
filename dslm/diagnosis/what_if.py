"""The same model with another placement of its norms, another depth, or DeepScaleLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from dslm.errors import SpecError
from dslm.kernels.grid import mean_diagonal, prepare
from dslm.scaling import apply_scaling, deepscale
from dslm.spec import Block, Kernel, ModelSpec, Stack

MAX_LAYERS = 10_000  # a prediction's cost is linear in it


def with_placement(spec: ModelSpec, placement: Literal["pre", "post"]) -> ModelSpec:
    """Return `spec` with every norm before its branch (Pre-LN) or after the sum (Post-LN).

    Weights and gains stay as they are. A stream that becomes Post-LN starts at unit variance, as
    with a norm on the embedding (BERT), and has no final norm.

    Args:
        spec: the model.
        placement: where its norms go.

    Raises:
        SpecError: if a block is None, has cross-attention, or a placement other than ``"pre"``
            and ``"post"``.
    """

    def placed(stack: Stack, path: str) -> Stack:
        blocks = tuple(
            replace(_movable(block, f"{path}.blocks[{index}]"), placement=placement)
            for index, block in enumerate(stack.blocks)
        )
        moved = replace(stack, blocks=blocks)
        if placement == "pre" or blocks == stack.blocks:
            return moved
        return replace(moved, input_kernel=unit(stack.input_kernel), final_norm=None)

    return _each_stack(spec, placed)


def with_depth(spec: ModelSpec, n_layers: int) -> ModelSpec:
    """Return `spec` with `n_layers` blocks in every stack.

    Blocks are taken in order, and again from block 0 after the last, so a pattern (local, global,
    local …) continues where the depth is a multiple of its period. Weights and residual scales
    stay as they are, even where an initialisation would set them by depth.

    Args:
        spec: the model.
        n_layers: blocks of every stack, 1 to 10,000.

    Raises:
        SpecError: if the depth is out of range, a block is None or a stack has none.
    """
    if not 1 <= n_layers <= MAX_LAYERS:
        raise SpecError("layers", f"give a depth from 1 to {MAX_LAYERS:,}, not {n_layers}")

    def repeated(stack: Stack, path: str) -> Stack:
        for index, block in enumerate(stack.blocks):
            _understood(block, f"{path}.blocks[{index}]")
        n = len(stack.blocks)
        if n == 0:
            raise SpecError(f"{path}.blocks", "give at least one block to repeat")
        return replace(stack, blocks=tuple(stack.blocks[i % n] for i in range(n_layers)))

    return _each_stack(spec, repeated)


def with_deepscale(spec: ModelSpec) -> ModelSpec:
    """Return `spec` with DeepScaleLM's weights and residual scales and an input of unit variance.

    Raises:
        SpecError: if a block is None or has cross-attention, or an input kernel is all zero.
    """

    def scaled(stack: Stack, path: str) -> Stack:
        for index, block in enumerate(stack.blocks):
            _alone(_understood(block, f"{path}.blocks[{index}]"), f"{path}.blocks[{index}]")
        start = replace(stack, input_kernel=unit(stack.input_kernel), reads=None)
        with np.errstate(all="ignore"):  # weights that overflow are replaced
            return apply_scaling(start, deepscale(start))

    return _each_stack(spec, scaled)


def unit(kernel: Kernel) -> Kernel:
    """Return `kernel` divided by its mean second moment."""
    prepared = prepare(kernel)
    size = mean_diagonal(prepared)
    if not size > 0:
        raise SpecError("input_kernel.diagonal", "give an input that is not all zero")
    return replace(
        prepared,
        diagonal=prepared.diagonal / size,
        off_diagonal=prepared.off_diagonal / size,
        mean=float(prepared.mean / size**0.5),
    )


def _each_stack(spec: ModelSpec, change: Callable[[Stack, str], Stack]) -> ModelSpec:
    stacks = {name: change(stack, f"stacks.{name}") for name, stack in spec.stacks.items()}
    return replace(spec, stacks=stacks)


def _understood(block: Block | None, path: str) -> Block:
    if block is None:
        raise SpecError(path, "it is not understood; a what-if needs every block")
    return block


def _alone(block: Block, path: str) -> Block:
    if block.cross is not None:
        raise SpecError(f"{path}.cross", "ask what-if of a stack without cross-attention")
    return block


def _movable(block: Block | None, path: str) -> Block:
    movable = _alone(_understood(block, path), path)
    if movable.placement not in ("pre", "post"):
        fix = f"norms placed {movable.placement!r} have no Pre-LN or Post-LN form here"
        raise SpecError(f"{path}.placement", fix)
    return movable
