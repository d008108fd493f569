"""The sizes of one pipeline stage, and what all stages have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer_agent.model.plan import Plan, stage_suffix
from trainer_agent.model.sites import CustomSite

HEADS = "attention_heads"


@dataclass(frozen=True, slots=True)
class StageLayout:
    """The sizes of one stage.

    Attributes:
        blocks: how many it holds of each stack.
        heads: how many attention heads these have, 0 where not known or not all the same.
        custom: of each custom site the stack, "" outside of them, and how many modules.
    """

    blocks: Mapping[str, int]
    heads: Mapping[str, int] = field(default_factory=dict)
    custom: Mapping[str, tuple[str, int]] = field(default_factory=dict)


def stage_layout(plan: Plan, suffix: str = "") -> StageLayout:
    """The layout of one chunk: of the stacks and sites in this process's plan that end so."""
    stacks = [stack for stack in plan.stacks if stage_suffix(stack.name) == suffix]
    custom = [site for site in plan.requested.custom if stage_suffix(site.stack) == suffix]
    return StageLayout(
        blocks={stack.name.removesuffix(suffix): len(stack.blocks) for stack in stacks},
        heads={stack.name.removesuffix(suffix): stack.n_heads for stack in stacks},
        custom={site.name: (site.stack.removesuffix(suffix), len(site.paths)) for site in custom},
    )


def to_json(stages: Sequence[StageLayout]) -> str:
    """Layouts as text."""
    return json.dumps([[stage.blocks, stage.heads, stage.custom] for stage in stages])


def from_json(text: bytes | str) -> tuple[StageLayout, ...]:
    """The layouts that `to_json` wrote."""
    return tuple(
        StageLayout(blocks, heads, {site: (stack, n) for site, (stack, n) in custom.items()})
        for blocks, heads, custom in json.loads(text)
    )


def stack_names(stages: Sequence[StageLayout]) -> list[str]:
    """The stacks of the whole model, encoder first."""
    return sorted({name for stage in stages for name in stage.blocks}, reverse=True)


def common_heads(stages: Sequence[StageLayout], stack: str) -> int:
    """Heads of a block of the stack, 0 where stages differ in them or do not know."""
    counts = _head_counts(stages, stack)
    return counts.pop() if len(counts) == 1 else 0


def common_sites(stages: Sequence[StageLayout]) -> tuple[CustomSite, ...]:
    """The custom sites over all stages, of modules without paths."""
    sites = []
    for name, stacks in _site_stacks(stages).items():
        if len(stacks) == 1:
            (stack,) = stacks
            # In a stack a site has a row for each block; elsewhere one for each module.
            rows = (
                stage.blocks.get(stack, 0) if stack else stage.custom.get(name, ("", 0))[1]
                for stage in stages
            )
            sites.append(CustomSite(name, stack, (None,) * sum(rows)))
    return tuple(sites)


def dropped_sites(stages: Sequence[StageLayout], sites: Sequence[str]) -> tuple[str, ...]:
    """Which of the requested sites cannot be measured in all stages, each with the reason."""
    head_counts = {
        stack: _head_counts(stages, stack) for stack in stack_names(stages) if HEADS in sites
    }
    reasons = [
        f"{HEADS}: stages differ in heads of the {stack}, or do not know them: "
        f"{', '.join(map(str, sorted(counts)))}"
        for stack, counts in head_counts.items()
        if len(counts) > 1 or 0 in counts
    ]
    for name, stacks in _site_stacks(stages).items():
        if not stacks:
            reasons.append(f"{name}: the pattern fits no module of any stage")
        elif len(stacks) > 1:
            reasons.append(f"{name}: in some stages it lies in blocks, in others elsewhere")
    return tuple(reasons)


def _head_counts(stages: Sequence[StageLayout], stack: str) -> set[int]:
    return {stage.heads.get(stack, 0) for stage in stages if stage.blocks.get(stack)}


def _site_stacks(stages: Sequence[StageLayout]) -> dict[str, set[str]]:
    """By custom site, the stacks that its modules lie in, over all stages."""
    stacks: dict[str, set[str]] = {}
    for stage in stages:
        for name, (stack, n) in stage.custom.items():
            stacks.setdefault(name, set()).update({stack} if n else ())
    return stacks
