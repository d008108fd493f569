"""What there is to measure in a model: by its structure, then by what its forward pass showed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from trainer_agent.description.hints import Hint, hinted_columns
from trainer_agent.description.read.parts import Added
from trainer_agent.model.blocks import columns
from trainer_agent.model.plan import NORM_INPUTS, Plan, StackPlan
from trainer_agent.model.unwrap import unwrap

if TYPE_CHECKING:
    from trainer_agent.description import Architecture, BlockParts, NormPart, StackParts

UNKNOWN = Added(None)


def plan_by_structure(model: nn.Module, hints: Sequence[Hint] = ()) -> Plan:
    """Blocks as the module tree and hints show them, before the model has been called."""
    stacks: dict[str, StackPlan] = {}
    inner = unwrap(model)
    for column in hinted_columns(inner, columns(inner), hints):
        if not column.is_called:
            continue  # where the stream passes between their parts, a forward pass will tell
        name = "encoder" if "encoder" in column.container.lower() else "decoder"
        unknown = (None,) * len(column.blocks)
        stacks.setdefault(name, StackPlan(name, column.blocks, unknown, unknown))
    return Plan(tuple(stacks[name] for name in sorted(stacks, reverse=True)))


def plan_of(architecture: Architecture) -> Plan:
    """Blocks and branches as the model's own forward pass showed them."""
    return Plan(tuple(_stack_plan(stack) for stack in architecture.stacks))


def norm_modules(parts: BlockParts | None) -> dict[str, str | None]:
    """The modules of the norms whose inputs are sites of a block."""
    if parts is None:
        return {}
    return {
        NORM_INPUTS[0]: module_of(parts.attention_norm),
        NORM_INPUTS[1]: module_of(parts.feed_forward_norm),
    }


def _stack_plan(stack: StackParts) -> StackPlan:
    norms = [norm_modules(parts) for parts in stack.watched]
    attention, feed_forward = (
        tuple(of_block.get(site, UNKNOWN) for of_block in stack.added)
        for site in ("attention", "feed_forward")
    )
    return StackPlan(
        name=stack.name,
        blocks=stack.blocks,
        attention=tuple(added.module for added in attention),
        feed_forward=tuple(added.module for added in feed_forward),
        attention_factors=tuple(added.factor for added in attention),
        feed_forward_factors=tuple(added.factor for added in feed_forward),
        attention_outputs=tuple(
            None if parts is None else parts.attention.output.module for parts in stack.watched
        ),
        projections=tuple(_projections(parts) for parts in stack.watched),
        attention_norm=tuple(of_block.get(NORM_INPUTS[0]) for of_block in norms),
        feed_forward_norm=tuple(of_block.get(NORM_INPUTS[1]) for of_block in norms),
        n_heads=_heads(stack.watched),
        token_axis=stack.token_axis,
        edges=stack.edges,
    )


def module_of(norm: NormPart | None) -> str | None:
    """Path of a norm's module; one without parameters has no name to be found by."""
    parameter = norm and (norm.weight or norm.bias)
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
