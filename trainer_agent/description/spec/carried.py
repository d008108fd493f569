"""Blocks that were not understood, by what was measured on their two sides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dslm.flows import BlockFlow, Site
from dslm.spec import Block, Carried

Blocks = Sequence[Block | None]


def carried(blocks: Blocks, flows: Sequence[BlockFlow | None]) -> tuple[Carried | None, ...]:
    """What each block that is None is carried by; nothing where nothing was measured."""
    if len(blocks) != len(flows):
        return ()
    every = tuple(
        None if block is not None or flow is None else _of(flow)
        for block, flow in zip(blocks, flows, strict=True)
    )
    return every if any(every) else ()


def _of(flow: BlockFlow) -> Carried | None:
    before, behind = flow.forward.get("in"), flow.forward.get("out")
    if before is None or behind is None or not 0 < behind.mean_square < math.inf:
        return None
    return Carried(behind.mean_square, _common(before), _common(behind), _gradient_gain(flow))


def _common(site: Site) -> float:
    if site.mean_square <= 0:
        return 0.0
    return min(max(site.shared / site.mean_square, 0.0), 1.0)


def _gradient_gain(flow: BlockFlow) -> float:
    before, behind = flow.backward.get("in"), flow.backward.get("out")
    if before is None or behind is None or behind.mean_square <= 0:
        return math.nan
    return before.mean_square / behind.mean_square
