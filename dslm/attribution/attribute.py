"""Two descriptions of one model compared, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from dslm.attribution.backward import Backward, backward
from dslm.attribution.change import TERMS, Cause, Change, Term, UndefinedError, measured
from dslm.attribution.forward import Forward, forward, stream_in
from dslm.attribution.result import Attribution, Direction, PartShare, StackAttribution
from dslm.attribution.sentences import sentences_of
from dslm.attribution.walk import Pair
from dslm.errors import SpecError
from dslm.flows import BlockFlow
from dslm.spec import Missing, ModelSpec

LN10 = math.log(10.0)
ENTERING: Cause = ("stream", "entering")
SMALLEST = 0.005  # decades: 1 % of a variance; smaller parts are not listed
T = TypeVar("T")


def attribute(before: ModelSpec, after: ModelSpec) -> Attribution:
    r"""Attribute the change of the stream's variance and of its gradient's gain to causes.

    Along the measured sites of a branch, each link's ratio of mean squares is a product of what
    independence says (a dense map: :math:`d_{in} E[w^2]`, a norm: :math:`E[g^2]`) and of the rest,
    which is the directions that the part reads; attention and activation are links of their own.
    Sums over branches are split by logarithmic means (`dslm.attribution.change`), so that all terms
    add up to the whole without remainder, whatever the order of the branches. `remainder` is what
    crosses a site that was not measured.

    Args:
        before: the model at the reference step, with `ModelSpec.flows`.
        after: the same model later.

    Raises:
        SpecError: if the two have other stacks, depths or placements.
    """
    stacks, missing = {}, []
    for name in after.stacks:
        _require_same(before, after, name)
        stack = _Stack(name, before, after)
        stacks[name] = stack.attribution()
        missing += stack.missing
    return Attribution(stacks, tuple(missing))


def _require_same(before: ModelSpec, after: ModelSpec, name: str) -> None:
    path = f"stacks.{name}"
    if name not in before.stacks:
        raise SpecError(path, "compare descriptions of one model: the earlier has no such stack")
    old, new = before.stacks[name].blocks, after.stacks[name].blocks
    if len(old) != len(new):
        raise SpecError(f"{path}.blocks", f"compare models of one depth: {len(old)}, {len(new)}")
    for index, (a, b) in enumerate(zip(old, new, strict=True)):
        if a is None or b is None:
            continue
        alike = a.placement == b.placement and (a.cross is None) == (b.cross is None)
        alike &= (a.feed_forward.gate is None) == (b.feed_forward.gate is None)
        if not alike:
            raise SpecError(f"{path}.blocks[{index}]", "compare blocks of one kind")


@dataclass(slots=True)
class _Stack:
    """One stack's blocks, carried upwards."""

    name: str
    before: ModelSpec
    after: ModelSpec
    missing: list[Missing] = field(default_factory=list)

    def attribution(self) -> StackAttribution:
        pairs = [self._pair(index) for index in range(len(self.after.stacks[self.name].blocks))]
        forwards = [self._try(i, "forward", pair, _alone) for i, pair in enumerate(pairs)]
        backwards = [self._try(i, "backward", pair, backward) for i, pair in enumerate(pairs)]
        self._note_branches(forwards, backwards)
        parts = tuple(
            sorted(_parts(pairs, forwards, backwards), key=lambda part: -abs(part.decades))
        )
        result = StackAttribution(
            forward=_direction([None if f is None else f.out for f in forwards]),
            backward=_direction([None if b is None else b.gain for b in backwards]),
            cumulative=_direction(_cumulative(pairs)),
            branches=_branches(forwards),
            branches_backward=_branches(backwards),
            parts=parts,
            sentences=(),
        )
        return replace(result, sentences=sentences_of(result))

    def _pair(self, index: int) -> Pair | None:
        blocks = [s.stacks[self.name].blocks[index] for s in (self.before, self.after)]
        flows = [_flow(s, self.name, index) for s in (self.before, self.after)]
        where = f"{self.name}.blocks[{index}]"
        if blocks[0] is None or blocks[1] is None:
            self.missing.append(Missing(where, "block", "it is not understood"))
        elif flows[0] is None or flows[1] is None:
            why = "its inside was not measured in the step described"
            self.missing.append(Missing(where, "flow", why))
        else:
            for site, why in {**flows[0].missing, **flows[1].missing}.items():
                self.missing.append(Missing(f"{where}.{site}", "flow", why))
            return Pair(blocks[0], blocks[1], flows[0], flows[1])
        return None

    def _try(self, index: int, what: str, pair: Pair | None, call: Callable[[Pair], T]) -> T | None:
        try:
            return None if pair is None else call(pair)
        except UndefinedError as error:
            self.missing.append(Missing(f"{self.name}.blocks[{index}]", what, str(error)))
            return None

    def _note_branches(
        self, forwards: Sequence[Forward | None], backwards: Sequence[Backward | None]
    ) -> None:
        for what, sides in (("forward", forwards), ("backward", backwards)):
            for index, side in enumerate(sides):
                for step, why in side.unexplained.items() if side else ():
                    where = f"{self.name}.blocks[{index}].{step}"
                    self.missing.append(Missing(where, what, why))


def _alone(pair: Pair) -> Forward:
    return forward(pair, stream_in(pair, ENTERING))


def _flow(spec: ModelSpec, stack: str, index: int) -> BlockFlow | None:
    flows = spec.flows.get(stack, ())
    return flows[index] if index < len(flows) else None


def _cumulative(pairs: Sequence[Pair | None]) -> list[Change | None]:
    """The stream behind each block, with what enters it followed to the blocks below."""
    changes: list[Change | None] = []
    below: Change | None = None
    for index, pair in enumerate(pairs):
        try:
            below = None if pair is None else forward(pair, _entering(pair, below, index)).out
        except UndefinedError:
            below = None
        if below is not None:
            terms = {("", term): value for term, value in below.by_term().items()}
            below = Change(below.before, below.after, terms)
        changes.append(below)
    return changes


def _entering(pair: Pair, below: Change | None, index: int) -> Change:
    start = stream_in(pair, ENTERING)
    if index == 0 or below is None:  # a gap: the block starts from its own measured input
        return start
    return measured(below, start.before, start.after, ("stream", "remainder"))


def _direction(changes: Sequence[Change | None]) -> Direction:
    nothing = dict.fromkeys(TERMS, math.nan)
    terms = [nothing if change is None else change.by_term() for change in changes]
    total = [math.nan if change is None else change.log_ratio for change in changes]
    by_term: dict[Term, list[float]] = {t: [values[t] for values in terms] for t in TERMS}
    return Direction(
        np.array(total) / LN10, {t: np.array(values) / LN10 for t, values in by_term.items()}
    )


def _branches(sides: Sequence[Forward | Backward | None]) -> Mapping[str, Direction]:
    steps = dict.fromkeys(step for side in sides if side for step in side.branches)
    return {
        step: _direction([side.branches.get(step) if side else None for side in sides])
        for step in steps
    }


def _parts(
    pairs: Sequence[Pair | None],
    forwards: Sequence[Forward | None],
    backwards: Sequence[Backward | None],
) -> Iterator[PartShare]:
    for index, (pair, ahead, back) in enumerate(zip(pairs, forwards, backwards, strict=True)):
        if pair is not None and ahead is not None:
            yield from _shares(index, "forward", pair, ahead.out, ahead.branches)
        if pair is not None and back is not None:
            yield from _shares(index, "backward", pair, back.gain, back.branches)


def _shares(
    index: int, direction: str, pair: Pair, change: Change, branches: Mapping[str, Change]
) -> Iterator[PartShare]:
    for cause, value in change.causes.items():
        if abs(value) / LN10 < SMALLEST:
            continue
        part, term = cause
        inside = [b.causes[cause] / LN10 for b in branches.values() if cause in b.causes]
        shared = _shared(pair.flow_after, part) if direction == "forward" else math.nan
        branch = inside[0] if inside and part != "stream" else math.nan
        yield PartShare(index, direction, part, term, value / LN10, branch, shared)


def _shared(flow: BlockFlow, part: str) -> float:
    """The share of what a part reads that lies in the direction common to all tokens."""
    step, _, name = part.partition(".")
    site = {
        "output": f"{step}.mixed",
        "down": f"{step}.hidden",
        "average": f"{step}.value",
    }.get(name, f"{step}.in" if name else "")
    read = flow.forward.get(site)
    return math.nan if read is None or read.mean_square == 0 else read.shared / read.mean_square
