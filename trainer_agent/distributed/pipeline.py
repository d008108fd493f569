"""Pipeline stages: each process holds some of the layers, and the run shows all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trainer_agent.capture.statistics.accumulator import Matrix, Sums
from trainer_agent.model.plan import MARK, Place, Plan, StackPlan, mark_of
from trainer_agent.model.sites import CustomSite

Rows = Sequence[tuple[slice, slice]]
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
