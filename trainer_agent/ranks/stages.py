"""Pipeline stages: each process holds some of the layers, and the run shows all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer_agent.capture.accumulator import Matrix, Sums
from trainer_agent.capture.plan import Place, Plan, StackPlan

BLOCKS = Mapping[str, int]  # how many blocks of each stack


class Misfit(RuntimeError):
    """A stage does not hold the blocks that it said it would."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Where this process's layers stand among all of them.

    Attributes:
        own: which stage this process holds, from 0.
        blocks: for every stage how many blocks of each stack it holds.
    """

    own: int
    blocks: tuple[BLOCKS, ...]

    def widened(self, plan: Plan) -> Plan:
        """The plan of the whole model, whose other blocks have no path here."""
        own = {stack.name: stack for stack in plan.stacks}
        for name, n in self.blocks[self.own].items():
            if name not in own or len(own[name].blocks) != n:
                raise Misfit(f"stage {self.own} was to hold {n} blocks of the {name}")
        names = sorted({name for stage in self.blocks for name in stage}, reverse=True)
        return Plan(tuple(self._whole(name, own.get(name)) for name in names), plan.wanted)

    def _whole(self, name: str, own: StackPlan | None) -> StackPlan:
        before, n = self._before(name), sum(stage.get(name, 0) for stage in self.blocks)
        inside = own.blocks if own else ()
        blocks = ("",) * before + inside + ("",) * (n - before - len(inside))
        return StackPlan(name, blocks, (None,) * n, (None,) * n)

    def _before(self, stack: str) -> int:
        return sum(stage.get(stack, 0) for stage in self.blocks[: self.own])

    def _is_last(self, stack: str) -> bool:
        return not any(stage.get(stack, 0) for stage in self.blocks[self.own + 1 :])

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
            blocks = self.blocks[self.own].get(place.stack, 0)
            n = place.n if self._is_last(place.stack) else min(place.n, blocks)
            first = whole.row(place.stack, place.site, self._before(place.stack))
            yield slice(place.first, place.first + n), slice(first, first + n)


def _placed(own: Matrix, rows: Sequence[tuple[slice, slice]], n: int, empty: float = 0.0) -> Matrix:
    """Rows of one array at their places among `n`; an array that is not measured stays empty."""
    found = np.full((n if len(own) else 0, *own.shape[1:]), empty)
    for here, there in rows if len(own) else ():
        found[there] = own[here]
    return found


def outline(plan: Plan) -> str:
    """What a stage tells the others of its plan."""
    return json.dumps({stack.name: len(stack.blocks) for stack in plan.stacks})


def read_outline(text: bytes | str) -> BLOCKS:
    """What `outline` wrote."""
    return {str(name): int(n) for name, n in json.loads(text).items()}
