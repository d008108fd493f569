"""Pipeline stages: each process holds some of the layers, and the run shows all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer_agent.capture.statistics.accumulator import Matrix, Sums
from trainer_agent.distributed.outlines import StageOutline, common_heads, common_sites
from trainer_agent.model.plan import MARK, Place, Plan, StackPlan, mark_of

Rows = Sequence[tuple[slice, slice]]


class Misfit(RuntimeError):
    """A stage does not hold the blocks that it said it would."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Where this process's layers stand among all of them.

    Attributes:
        own: which stages this process holds, from 0, in the order of its chunks.
        outlines: what every stage holds.
    """

    own: tuple[int, ...]
    outlines: tuple[StageOutline, ...]

    @property
    def blocks(self) -> tuple[Mapping[str, int], ...]:
        """For every stage how many blocks of each stack it holds."""
        return tuple(one.blocks for one in self.outlines)

    def check(self, plan: Plan) -> None:
        """Raise `Misfit` where this process holds other blocks than it has told the others."""
        for stage in self.own:
            homes = [(*self._home(stack.name), stack) for stack in plan.stacks]
            held = {name: len(stack.blocks) for at, name, stack in homes if at == stage}
            if held != self.outlines[stage].blocks:
                said = self.outlines[stage].blocks
                raise Misfit(f"stage {stage} was to hold blocks {said}, and holds {held}")

    def widened(self, plan: Plan) -> Plan:
        """The plan of the whole model, whose other blocks have no path here."""
        self.check(plan)
        names = sorted({name for one in self.outlines for name in one.blocks}, reverse=True)
        wanted = replace(plan.wanted, custom=common_sites(self.outlines))
        return Plan(tuple(self._whole(name, plan) for name in names), wanted)

    def _whole(self, name: str, plan: Plan) -> StackPlan:
        n = sum(one.blocks.get(name, 0) for one in self.outlines)
        blocks = [""] * n
        for stack in plan.stacks:
            stage, own = self._home(stack.name)
            if own == name:
                first = self._before(stage, name)
                blocks[first : first + len(stack.blocks)] = stack.blocks
        n_heads = common_heads(self.outlines, name)
        return StackPlan(name, tuple(blocks), (None,) * n, (None,) * n, n_heads=n_heads)

    def _home(self, name: str) -> tuple[int, str]:
        """The stage and the stack that a name in this process's plan speaks of."""
        mark = mark_of(name)
        stage = int(mark.removeprefix(MARK)) if mark else self.own[0]
        return stage, name.removesuffix(mark)

    def _before(self, stage: int, stack: str) -> int:
        return sum(one.blocks.get(stack, 0) for one in self.outlines[:stage])

    def layers_before(self, plan: Plan) -> dict[str, int]:
        """By stack of this process's plan, how many of its blocks lie in earlier stages."""
        return {stack.name: self._before(*self._home(stack.name)) for stack in plan.stacks}

    def _is_last(self, stage: int, stack: str) -> bool:
        return not any(one.blocks.get(stack, 0) for one in self.outlines[stage + 1 :])

    def spread(self, plan: Plan, sums: Sums) -> Sums:
        """This process's sums in the rows of the whole model, zero elsewhere.

        What leaves one stage enters the next: it is counted where it enters.
        """
        whole = self.widened(plan)
        tensors = list(self._rows(plan.places, whole.places))
        blocks = list(self._rows(plan.logit_places, whole.logit_places))
        outside = [(slice(plan.logit_rows, None), slice(whole.logit_rows, None))]
        of_tails = whole.rows if whole.wanted.costly else 0
        return replace(
            sums,
            moments=_placed(sums.moments, tensors, whole.rows),
            tails=_placed(sums.tails, tensors, of_tails),
            tail_max=_placed(sums.tail_max, tensors, of_tails),
            logits=_placed(sums.logits, blocks, whole.logit_rows),
            logit_max=_placed(sums.logit_max, blocks, whole.logit_rows, empty=-np.inf),
            heads=_of_heads(sums.heads, plan, whole, blocks),
            head_max=_of_heads(sums.head_max, plan, whole, blocks, empty=-np.inf),
            parameters=_placed(sums.parameters, blocks + outside, whole.parameter_rows),
        )

    def _rows(self, own: Sequence[Place], whole: Sequence[Place]) -> Iterator[tuple[slice, slice]]:
        begins = {(place.stack, place.site): place.first for place in whole}
        for place in own:
            stage, stack = self._home(place.stack)
            if (stack, place.site) in begins:  # else stages could not agree on the site
                blocks = self.outlines[stage].blocks.get(stack, 0)
                n = place.n if self._is_last(stage, stack) else min(place.n, blocks)
                first = begins[stack, place.site] + self._rows_before(stage, stack, place.site)
                yield slice(place.first, place.first + n), slice(first, first + n)

    def _rows_before(self, stage: int, stack: str, site: str) -> int:
        if stack:
            return self._before(stage, stack)
        return sum(one.custom.get(site, ("", 0))[1] for one in self.outlines[:stage])


def _placed(own: Matrix, rows: Rows, n: int, empty: float = 0.0) -> Matrix:
    """Rows of one array at their places among `n`."""
    found = np.full((n, *own.shape[1:]), empty)
    for here, there in rows if n else ():
        found[there] = own[here]
    return found


def _of_heads(own: Matrix, plan: Plan, whole: Plan, rows: Rows, empty: float = 0.0) -> Matrix:
    """The same of an array that has a row for each head of a block."""
    columns = own.shape[1:]
    found = np.full((whole.logit_rows, whole.heads, *columns), empty)
    held = own.reshape(plan.logit_rows, plan.heads, *columns)
    n = min(plan.heads, whole.heads)
    for here, there in rows:
        found[there, :n] = held[here, :n]
    return found.reshape(whole.logit_rows * whole.heads, *columns)
