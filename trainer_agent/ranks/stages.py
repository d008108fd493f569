"""Pipeline stages: each process holds some of the layers, and the run shows all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer_agent.capture.accumulator import Matrix, Sums
from trainer_agent.capture.plan import MARK, Place, Plan, StackPlan, mark_of

BLOCKS = Mapping[str, int]  # how many blocks of each stack


class Misfit(RuntimeError):
    """A stage does not hold the blocks that it said it would."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Where this process's layers stand among all of them.

    Attributes:
        own: which stages this process holds, from 0, in the order of its chunks.
        blocks: for every stage how many blocks of each stack it holds.
    """

    own: tuple[int, ...]
    blocks: tuple[BLOCKS, ...]

    def widened(self, plan: Plan) -> Plan:
        """The plan of the whole model, whose other blocks have no path here."""
        for stage in self.own:
            held = {self._home(stack.name)[1]: stack for stack in self._stacks_of(stage, plan)}
            for name, n in self.blocks[stage].items():
                if name not in held or len(held[name].blocks) != n:
                    raise Misfit(f"stage {stage} was to hold {n} blocks of the {name}")
        names = sorted({name for stage in self.blocks for name in stage}, reverse=True)
        return Plan(tuple(self._whole(name, plan) for name in names), plan.wanted)

    def _stacks_of(self, stage: int, plan: Plan) -> list[StackPlan]:
        return [stack for stack in plan.stacks if self._home(stack.name)[0] == stage]

    def _whole(self, name: str, plan: Plan) -> StackPlan:
        n = sum(stage.get(name, 0) for stage in self.blocks)
        blocks = [""] * n
        for stack in plan.stacks:
            stage, own = self._home(stack.name)
            if own == name:
                first = self.before(stage, name)
                blocks[first : first + len(stack.blocks)] = stack.blocks
        return StackPlan(name, tuple(blocks), (None,) * n, (None,) * n)

    def _home(self, name: str) -> tuple[int, str]:
        """The stage and the stack that a name in this process's plan speaks of."""
        mark = mark_of(name)
        stage = int(mark.removeprefix(MARK)) if mark else self.own[0]
        return stage, name.removesuffix(mark)

    def before(self, stage: int, stack: str) -> int:
        """How many blocks of a stack lie in earlier stages."""
        return sum(one.get(stack, 0) for one in self.blocks[:stage])

    def layers_before(self, plan: Plan) -> dict[str, int]:
        """The same for each stack of this process's plan, by its name there."""
        return {stack.name: self.before(*self._home(stack.name)) for stack in plan.stacks}

    def _is_last(self, stage: int, stack: str) -> bool:
        return not any(one.get(stack, 0) for one in self.blocks[stage + 1 :])

    def spread(self, plan: Plan, sums: Sums) -> Sums:
        """This process's sums in the rows of the whole model, zero elsewhere.

        What leaves one stage enters the next: it is counted where it enters.
        """
        whole = self.widened(plan)
        tensors = list(self._rows(plan.places, whole))
        blocks = list(self._rows(plan.logit_places, whole))
        outside = [(slice(plan.logit_rows, None), slice(whole.logit_rows, None))]
        return replace(
            sums,
            moments=_placed(sums.moments, tensors, whole.rows),
            tails=_placed(sums.tails, tensors, whole.rows),
            tail_max=_placed(sums.tail_max, tensors, whole.rows),
            logits=_placed(sums.logits, blocks, whole.logit_rows),
            logit_max=_placed(sums.logit_max, blocks, whole.logit_rows, empty=-np.inf),
            parameters=_placed(sums.parameters, blocks + outside, whole.parameter_rows),
        )

    def _rows(self, places: Sequence[Place], whole: Plan) -> Iterator[tuple[slice, slice]]:
        for place in places:
            stage, stack = self._home(place.stack)
            blocks = self.blocks[stage].get(stack, 0)
            n = place.n if self._is_last(stage, stack) else min(place.n, blocks)
            first = whole.row(stack, place.site, self.before(stage, stack))
            yield slice(place.first, place.first + n), slice(first, first + n)


def _placed(own: Matrix, rows: Sequence[tuple[slice, slice]], n: int, empty: float = 0.0) -> Matrix:
    """Rows of one array at their places among `n`; an array that is not measured stays empty."""
    found = np.full((n if len(own) else 0, *own.shape[1:]), empty)
    for here, there in rows if len(own) else ():
        found[there] = own[here]
    return found


def outline(plan: Plan, mark: str = "") -> str:
    """What a stage tells the others of its plan: of what bears its mark, where it has one."""
    stacks = [stack for stack in plan.stacks if mark_of(stack.name) == mark]
    return json.dumps({stack.name.removesuffix(mark): len(stack.blocks) for stack in stacks})


def read_outline(text: bytes | str) -> BLOCKS:
    """What `outline` wrote."""
    return {str(name): int(n) for name, n in json.loads(text).items()}
