"""What a stage of a pipeline tells the others of its part of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer_agent.model.plan import Plan, mark_of
from trainer_agent.model.sites import CustomSite

HEADS = "attention_heads"


@dataclass(frozen=True, slots=True)
class StageOutline:
    """The sizes of one stage.

    Attributes:
        blocks: how many it holds of each stack.
        heads: how many attention heads these have, 0 where not known or not all the same.
        custom: of each site of the user's own the stack, "" outside of them, and how many modules.
    """

    blocks: Mapping[str, int]
    heads: Mapping[str, int] = field(default_factory=dict)
    custom: Mapping[str, tuple[str, int]] = field(default_factory=dict)


def outline(plan: Plan, mark: str = "") -> StageOutline:
    """The outline of one chunk: of what bears its mark in this process's plan."""
    stacks = [stack for stack in plan.stacks if mark_of(stack.name) == mark]
    custom = [site for site in plan.wanted.custom if mark_of(site.stack) == mark]
    return StageOutline(
        blocks={stack.name.removesuffix(mark): len(stack.blocks) for stack in stacks},
        heads={stack.name.removesuffix(mark): stack.n_heads for stack in stacks},
        custom={site.name: (site.stack.removesuffix(mark), len(site.paths)) for site in custom},
    )


def write(outlines: Sequence[StageOutline]) -> str:
    """Outlines as text."""
    return json.dumps([[one.blocks, one.heads, one.custom] for one in outlines])


def read(text: bytes | str) -> tuple[StageOutline, ...]:
    """What `write` wrote."""
    return tuple(
        StageOutline(blocks, heads, {site: (stack, n) for site, (stack, n) in custom.items()})
        for blocks, heads, custom in json.loads(text)
    )


def common_heads(outlines: Sequence[StageOutline], stack: str) -> int:
    """Heads of a block of the stack, 0 where stages differ in them or do not know."""
    found = _heads(outlines, stack)
    return found.pop() if len(found) == 1 else 0


def common_sites(outlines: Sequence[StageOutline]) -> tuple[CustomSite, ...]:
    """The user's own sites over all stages, of modules without paths."""
    found = []
    for name, stacks in _sites(outlines).items():
        if len(stacks) == 1:
            (stack,) = stacks
            parts = [one.custom.get(name, ("", 0))[1] for one in outlines]
            n = sum(one.blocks.get(stack, 0) for one in outlines) if stack else sum(parts)
            found.append(CustomSite(name, stack, (None,) * n))
    return tuple(found)


def dropped(outlines: Sequence[StageOutline], sites: Sequence[str]) -> tuple[str, ...]:
    """Which sites that are wanted cannot be had of all stages, each with the reason."""
    stacks = sorted({name for one in outlines for name in one.blocks}, reverse=True)
    heads = {stack: _heads(outlines, stack) for stack in stacks if HEADS in sites}
    found = [
        f"{HEADS}: stages differ in heads of the {stack}, or do not know them: "
        f"{', '.join(map(str, sorted(counts)))}"
        for stack, counts in heads.items()
        if len(counts) > 1 or 0 in counts
    ]
    for name, where in _sites(outlines).items():
        if not where:
            found.append(f"{name}: the pattern fits no module of any stage")
        elif len(where) > 1:
            found.append(f"{name}: in some stages it lies in blocks, in others elsewhere")
    return tuple(found)


def _heads(outlines: Sequence[StageOutline], stack: str) -> set[int]:
    return {one.heads.get(stack, 0) for one in outlines if one.blocks.get(stack)}


def _sites(outlines: Sequence[StageOutline]) -> dict[str, set[str]]:
    """The stacks that each site's modules lie in, over all stages."""
    found: dict[str, set[str]] = {}
    for one in outlines:
        for name, (stack, n) in one.custom.items():
            found.setdefault(name, set()).update({stack} if n else ())
    return found
