"""What a block's branches add, counted in the pass that shows which modules they end in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from trainer_agent.capture.hooks import first_stream
from trainer_agent.description.planning import norm_modules
from trainer_agent.description.read.parts import Added
from trainer_agent.model.plan import NORM_INPUTS, Plan

if TYPE_CHECKING:
    from trainer_agent.description.read.stacks import BlockReading
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
    block: str,
    reading: BlockReading,
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
    norms = norm_modules(reading.parts) if "norm_inputs" in hooks.plan.requested.sites else {}
    for site, added in (
        reading.added | {site: Added(path) for site, path in norms.items()}
    ).items():
        path = added.module
        call = None if path is None else calls.get(path)
        if path is None or call is None:
            continue
        args, kwargs = call.args
        x = first_stream((*args, *kwargs.values()) if site in NORM_INPUTS else call.output)
        if x is not None:
            factor = added.factor
            hooks.count(stack, site, index, x if factor == 1.0 else x.detach() * factor)
