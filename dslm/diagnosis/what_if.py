"""The same model with another placement of its norms, another depth, or DeepScaleLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from dslm.errors import SpecError
from dslm.kernels.grid import mean_diagonal, prepare
from dslm.scaling import DEFAULT_FORM, Form, Scaling, apply_scaling, deepscale_stacks
from dslm.schemes import SchemeName, apply_scheme, scheme
from dslm.spec import Block, Head, Kernel, ModelSpec, Stack

MAX_LAYERS = 10_000  # a prediction's cost is linear in it


def with_placement(spec: ModelSpec, placement: Literal["pre", "post"]) -> ModelSpec:
    """Return `spec` with every norm before its branch (Pre-LN) or after the sum (Post-LN).

    Weights and gains stay as they are. A stream that becomes Post-LN starts at unit variance, as
    with a norm on the embedding (BERT), and has no final norm. Where the spec has a head, the
    gradient at the top is predicted from it, in place of the measured one.

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
        if blocks == stack.blocks:
            return stack
        moved = _without_measured_gradient(replace(stack, blocks=blocks))
        if placement == "pre":
            return moved
        head = _without_final_norm(stack.head)
        return replace(moved, input_kernel=unit(stack.input_kernel), final_norm=None, head=head)

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
        if n == n_layers:
            return stack
        deeper = tuple(stack.blocks[i % n] for i in range(n_layers))
        return _without_measured_gradient(replace(stack, blocks=deeper))

    return _each_stack(spec, repeated)


def with_deepscale(spec: ModelSpec, form: Form | SchemeName = DEFAULT_FORM) -> ModelSpec:
    """Return `spec` with DeepScaleLM's weights and residual scales and inputs of unit variance.

    Args:
        spec: the model.
        form: one of `dslm.deepscale`'s, or a scheme of `dslm.schemes`, which sets what its source
            sets and leaves inputs as they are.

    Raises:
        SpecError: if a block is None, an input kernel is all zero, or the form is not for the
            model.
    """
    if form in get_args(SchemeName):
        return _with_scheme(spec, form)  # type: ignore[arg-type]

    def with_unit_input(stack: Stack, path: str) -> Stack:
        for index, block in enumerate(stack.blocks):
            _understood(block, f"{path}.blocks[{index}]")
        start = replace(stack, input_kernel=unit(stack.input_kernel))
        return _without_measured_gradient(start)

    start = _each_stack(spec, with_unit_input)
    with np.errstate(all="ignore"):  # weights that overflow are replaced
        scalings = deepscale_stacks(start, form=form)  # type: ignore[arg-type]
    stacks = {name: _scaled(stack, scalings[name]) for name, stack in start.stacks.items()}
    return replace(start, stacks=stacks)


def _with_scheme(spec: ModelSpec, name: SchemeName) -> ModelSpec:
    start = _each_stack(spec, lambda stack, _: _without_measured_gradient(stack))
    schemes = scheme(start, name)
    changed = apply_scheme(start, schemes)
    stacks = {key: _with_head(stack, schemes[key].tables) for key, stack in changed.stacks.items()}
    return replace(changed, stacks=stacks)


def _with_head(stack: Stack, std: float | None) -> Stack:
    if std is None or stack.head is None:
        return stack
    output = replace(stack.head.output, weight_var=std**2, bias_var=0.0)
    return replace(stack, head=replace(stack.head, output=output))


def _scaled(stack: Stack, scaling: Scaling) -> Stack:
    scaled, head = apply_scaling(stack, scaling), stack.head
    if head is None:
        return scaled
    std = scaling.embedding if head.tied else scaling.head
    output = replace(head.output, weight_var=std**2, bias_var=0.0)
    scale = head.scale * scaling.tied_head_input if head.tied else head.scale
    return replace(scaled, head=replace(head, output=output, scale=scale))


def _without_final_norm(head: Head | None) -> Head | None:
    if head is None or not head.layers:
        return head
    first = head.layers[0]
    final = first.norm is not None and first.linear is None
    return replace(head, layers=head.layers[1:]) if final else head


def _without_measured_gradient(stack: Stack) -> Stack:
    """Return the stack without a top gradient measured on another model, if a head predicts one."""
    return stack if stack.head is None else replace(stack, top_gradient_kernel=None)


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
