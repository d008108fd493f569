"""Where the layers of this process stand among those of all stages of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer_agent.capture.statistics.sums import Matrix, Sums
from trainer_agent.distributed.stage_layout import (
    StageLayout,
    common_heads,
    common_sites,
    stack_names,
)
from trainer_agent.errors import ExplainedError
from trainer_agent.model.plan import STAGE_SEPARATOR, Place, Plan, StackPlan, stage_suffix

# Rows of a local array, and the rows of the whole model's that they go to.
Rows = Sequence[tuple[slice, slice]]


class LayoutMismatch(ExplainedError):
    """A stage does not hold the blocks that it announced."""


@dataclass(frozen=True, slots=True)
class PipelineLayout:
    """All stages of a pipeline, and which of them this process holds.

    A plan or an array is local where it speaks of this process's stages alone, and global where
    it speaks of the whole model.

    Attributes:
        local_stages: the stages of this process, from 0, in the order of its chunks.
        stages: the layout of every stage.
    """

    local_stages: tuple[int, ...]
    stages: tuple[StageLayout, ...]

    @property
    def blocks(self) -> tuple[Mapping[str, int], ...]:
        """For every stage how many blocks of each stack it holds."""
        return tuple(stage.blocks for stage in self.stages)

    def check(self, plan: Plan) -> None:
        """Raise `LayoutMismatch` where the local plan differs from what was announced."""
        for number in self.local_stages:
            located = [(*self._locate(stack.name), len(stack.blocks)) for stack in plan.stacks]
            blocks = {name: n for stage, name, n in located if stage == number}
            announced = self.stages[number].blocks
            if blocks != announced:
                raise LayoutMismatch(
                    f"stage {number} was to hold blocks {announced}, and holds {blocks}"
                )

    def global_plan(self, plan: Plan) -> Plan:
        """The plan of the whole model; blocks of other processes have the path ""."""
        self.check(plan)
        requested = replace(plan.requested, custom=common_sites(self.stages))
        stacks = (self._global_stack(name, plan) for name in stack_names(self.stages))
        return Plan(tuple(stacks), requested)

    def layers_before(self, plan: Plan) -> dict[str, int]:
        """By stack of the local plan, how many of its blocks lie in earlier stages."""
        return {stack.name: self._blocks_before(*self._locate(stack.name)) for stack in plan.stacks}

    def place(self, plan: Plan, sums: Sums) -> Sums:
        """The sums of the local plan in the rows of the global one, zero elsewhere.

        What leaves a stage enters the next one: it is counted where it enters.
        """
        target = self.global_plan(plan)
        tensors = list(self._rows(plan.places, target.places))
        blocks = list(self._rows(plan.logit_places, target.logit_places))
        outside = [(slice(plan.logit_rows, None), slice(target.logit_rows, None))]
        extra_rows = target.rows if target.requested.costly else 0
        return replace(
            sums,
            moments=_placed(sums.moments, tensors, target.rows),
            precision=_placed(sums.precision, tensors, target.rows),
            extra=_placed(sums.extra, tensors, extra_rows),
            extra_max=_placed(sums.extra_max, tensors, extra_rows),
            logits=_placed(sums.logits, blocks, target.logit_rows),
            logit_max=_placed(sums.logit_max, blocks, target.logit_rows, empty=-np.inf),
            heads=_placed_heads(sums.heads, plan, target, blocks),
            head_max=_placed_heads(sums.head_max, plan, target, blocks, empty=-np.inf),
            parameters=_placed(sums.parameters, blocks + outside, target.parameter_rows),
        )

    def _global_stack(self, name: str, plan: Plan) -> StackPlan:
        n = sum(stage.blocks.get(name, 0) for stage in self.stages)
        blocks = [""] * n
        for stack in plan.stacks:
            stage, global_name = self._locate(stack.name)
            if global_name == name:
                first = self._blocks_before(stage, name)
                blocks[first : first + len(stack.blocks)] = stack.blocks
        n_heads = common_heads(self.stages, name)
        return StackPlan(name, tuple(blocks), (None,) * n, (None,) * n, n_heads=n_heads)

    def _locate(self, name: str) -> tuple[int, str]:
        """The stage and the global stack that a stack of the local plan belongs to."""
        suffix = stage_suffix(name)
        stage = int(suffix.removeprefix(STAGE_SEPARATOR)) if suffix else self.local_stages[0]
        return stage, name.removesuffix(suffix)

    def _blocks_before(self, stage: int, stack: str) -> int:
        return sum(earlier.blocks.get(stack, 0) for earlier in self.stages[:stage])

    def _is_last(self, stage: int, stack: str) -> bool:
        return not any(later.blocks.get(stack, 0) for later in self.stages[stage + 1 :])

    def _rows(
        self, local: Sequence[Place], target: Sequence[Place]
    ) -> Iterator[tuple[slice, slice]]:
        starts = {(place.stack, place.site): place.first for place in target}
        for place in local:
            stage, stack = self._locate(place.stack)
            if (stack, place.site) in starts:  # else the stages could not agree on the site
                blocks = self.stages[stage].blocks.get(stack, 0)
                # A stream has a row more than there are blocks. All but the last stage leave
                # theirs to the next stage, whose first row it is.
                n = place.n if self._is_last(stage, stack) else min(place.n, blocks)
                start = starts[stack, place.site] + self._rows_before(stage, stack, place.site)
                yield slice(place.first, place.first + n), slice(start, start + n)

    def _rows_before(self, stage: int, stack: str, site: str) -> int:
        if stack:
            return self._blocks_before(stage, stack)
        return sum(earlier.custom.get(site, ("", 0))[1] for earlier in self.stages[:stage])


def _placed(array: Matrix, rows: Rows, n: int, empty: float = 0.0) -> Matrix:
    """The rows of one array at their places among `n`."""
    placed = np.full((n, *array.shape[1:]), empty)
    for source, target in rows if n else ():
        placed[target] = array[source]
    return placed


def _placed_heads(
    array: Matrix, plan: Plan, target: Plan, rows: Rows, empty: float = 0.0
) -> Matrix:
    """The same for an array that has a row for each head of a block."""
    columns = array.shape[1:]
    placed = np.full((target.logit_rows, target.heads, *columns), empty)
    by_head = array.reshape(plan.logit_rows, plan.heads, *columns)
    n = min(plan.heads, target.heads)
    for source, destination in rows:
        placed[destination, :n] = by_head[source, :n]
    return placed.reshape(target.logit_rows * target.heads, *columns)
