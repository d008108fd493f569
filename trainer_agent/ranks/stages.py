"""Pipeline stages: each process holds some of the layers, and the run shows all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer_agent.capture.accumulator import Sums
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
        return Plan(tuple(self._whole(name, own.get(name)) for name in names))

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
        moments = np.zeros((whole.rows, sums.moments.shape[1]))
        logits = np.zeros((whole.logit_rows, sums.logits.shape[1]))
        largest = np.full(whole.logit_rows, -np.inf)
        for own, there in self._rows(plan.places, whole):
            moments[there] = sums.moments[own]
        for own, there in self._rows(plan.logit_places, whole):
            logits[there], largest[there] = sums.logits[own], sums.logit_max[own]
        return replace(sums, moments=moments, logits=logits, logit_max=largest)

    def _rows(self, places: Sequence[Place], whole: Plan) -> Iterator[tuple[slice, slice]]:
        for place in places:
            blocks = self.blocks[self.own].get(place.stack, 0)
            n = place.n if self._is_last(place.stack) else min(place.n, blocks)
            first = whole.row(place.stack, place.site, self._before(place.stack))
            yield slice(place.first, place.first + n), slice(first, first + n)


def outline(plan: Plan) -> str:
    """What a stage tells the others of its plan."""
    return json.dumps({stack.name: len(stack.blocks) for stack in plan.stacks})


def read_outline(text: bytes | str) -> BLOCKS:
    """What `outline` wrote."""
    return {str(name): int(n) for name, n in json.loads(text).items()}
