"""What a block's branches add, counted in the pass that shows which modules they end in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from trainer_agent.capture.hooks import first_stream
from trainer_agent.description.planning import branch_modules
from trainer_agent.model.plan import NORM_INPUTS, Plan

if TYPE_CHECKING:
    from trainer_agent.description import BlockParts
    from trainer_agent.description.trace.module_calls import ModuleCall


class Counts(Protocol):
    """What counts tensors in the rows of a plan."""

    @property
    def plan(self) -> Plan:
        """The places measured."""
        ...

    def count(self, stack: str, site: str, index: int, x: Tensor) -> None:
        """Count a tensor that no hook of the plan has seen."""


def count_branches(
    hooks: Counts,
    model: nn.Module,
    block: str,
    parts: BlockParts,
    calls: Mapping[str, ModuleCall],
) -> None:
    """Count what hooks would have, had the block's branches been known before it was called.

    `calls` are those of the modules inside the block, by path.
    """
    rows = (
        (stack.name, stack.blocks.index(block))
        for stack in hooks.plan.stacks
        if block in stack.blocks
    )
    stack, index = next(rows, ("", 0))
    # Without gradients runs a reentrant checkpoint: its recomputation is counted, by hooks.
    if not stack or not torch.is_grad_enabled():
        return
    for site, path in branch_modules(parts).items():
        call = None if path is None else calls.get(path)
        if path is None or call is None or not model.get_submodule(path).training:
            continue
        is_input = site in NORM_INPUTS
        if is_input and "norm_inputs" not in hooks.plan.requested.sites:
            continue
        args, kwargs = call.args
        x = first_stream((*args, *kwargs.values()) if is_input else call.output)
        if x is not None:
            hooks.count(stack, site, index, x)
