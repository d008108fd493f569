"""What there is to measure in a model: by its structure, then by what its forward pass showed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from trainer_agent.description.hints import Hint, hinted_columns
from trainer_agent.model.blocks import columns
from trainer_agent.model.plan import NORM_INPUTS, Plan, StackPlan
from trainer_agent.model.unwrap import unwrap

if TYPE_CHECKING:
    from trainer_agent.description import Architecture, BlockParts, NormPart, StackParts


def plan_by_structure(model: nn.Module, hints: Sequence[Hint] = ()) -> Plan:
    """Blocks as the module tree and hints show them, before the model has been called."""
    stacks: dict[str, StackPlan] = {}
    inner = unwrap(model)
    for column in hinted_columns(inner, columns(inner), hints):
        name = "encoder" if "encoder" in column.container.lower() else "decoder"
        unknown = (None,) * len(column.blocks)
        stacks.setdefault(name, StackPlan(name, column.blocks, unknown, unknown))
    return Plan(tuple(stacks[name] for name in sorted(stacks, reverse=True)))


def plan_of(architecture: Architecture) -> Plan:
    """Blocks and branches as the model's own forward pass showed them."""
    return Plan(tuple(_stack_plan(stack) for stack in architecture.stacks))


def branch_modules(parts: BlockParts) -> dict[str, str | None]:
    """Which module a site of a block is measured at: what puts it out, or the norm it goes into."""
    return {
        "attention": parts.attention.output.module,
        "feed_forward": parts.feed_forward.down.module,
        NORM_INPUTS[0]: _module_of(parts.attention_norm),
        NORM_INPUTS[1]: _module_of(parts.feed_forward_norm),
    }


def _stack_plan(stack: StackParts) -> StackPlan:
    modules = [branch_modules(parts) if parts else {} for parts in stack.parts]
    return StackPlan(
        name=stack.name,
        blocks=stack.blocks,
        attention=tuple(of_block.get("attention") for of_block in modules),
        feed_forward=tuple(of_block.get("feed_forward") for of_block in modules),
        projections=tuple(_projections(parts) for parts in stack.parts),
        attention_norm=tuple(of_block.get(NORM_INPUTS[0]) for of_block in modules),
        feed_forward_norm=tuple(of_block.get(NORM_INPUTS[1]) for of_block in modules),
        n_heads=_heads(stack.parts),
    )


def _module_of(norm: NormPart) -> str | None:
    """Path of a norm's module; one without parameters has no name to be found by."""
    parameter = norm.weight or norm.bias
    return parameter.rpartition(".")[0] if parameter else None


def _heads(blocks: Sequence[BlockParts | None]) -> int:
    counts = {block.attention.n_heads for block in blocks if block is not None}
    return counts.pop() if len(counts) == 1 else 0


def _projections(block: BlockParts | None) -> tuple[str, ...]:
    if block is None:
        return ()
    attention = block.attention
    paths = dict.fromkeys(part.module for part in (attention.query, attention.key, attention.value))
    return () if attention.output.module in paths else tuple(paths)
