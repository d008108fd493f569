"""Two of a run's descriptions, read and compared."""

from __future__ import annotations

import asyncio
import math

import dslm
from dslm.attribution import TERMS
from dslm.spec import Floats
from server.attribution.schemas import (
    AttributionAnswer,
    BranchAnswer,
    Decades,
    DirectionAnswer,
    PartAnswer,
    StackAnswer,
)
from server.database import Database
from server.errors import FlowNotFound
from server.predictions.repository import PredictionRepository
from server.predictions.service import FLOWS, unpack_described
from server.runs.repository import RunRepository
from server.schemas import MissingInfo

OTHER_LAYOUT = (
    "the model's blocks are others than in its first description: compared with step {step}, the "
    "first with the blocks of today"
)
Described = tuple[int, dslm.ModelSpec]


async def show(database: Database, run_id: str, step: int | None) -> AttributionAnswer:
    """The attribution at the last description up to `step`, the newest for None.

    Raises:
        FlowNotFound: if none up to there has measured inside the blocks.
    """
    async with database.reading() as session:
        steps = await RunRepository(session).revision_steps(run_id)
    upto = [s for s in steps if step is None or s <= step]
    after = await _first_of(database, run_id, upto[::-1])
    if after is None:
        first = await _first_of(database, run_id, steps)
        raise FlowNotFound(run_id, None if first is None else first[0])
    note = ""
    for earlier in upto:
        before = await _described(database, run_id, earlier)
        if before is None:
            continue
        try:
            result = await asyncio.to_thread(dslm.attribute, before, after[1])
        except dslm.SpecError:  # the job went on with another layout
            note = "other"
            continue
        note = OTHER_LAYOUT.format(step=earlier) if note else ""
        return _answer(earlier, after[0], note, result)
    raise FlowNotFound(run_id, None)  # pragma: no cover - it can be compared with itself


async def _first_of(database: Database, run_id: str, steps: list[int]) -> Described | None:
    """The first of these revisions whose flows were measured."""
    for step in steps:
        spec = await _described(database, run_id, step)
        if spec is not None:
            return step, spec
    return None


async def _described(database: Database, run_id: str, step: int) -> dslm.ModelSpec | None:
    """A revision's spec; None where it has no flows, or cannot be read."""
    async with database.reading() as session:
        packed = await PredictionRepository(session).spec(run_id, step)
    body = {} if packed is None else unpack_described(packed)
    if not body.get(FLOWS):
        return None
    try:
        return await asyncio.to_thread(dslm.spec_from_json, body)
    except dslm.SpecError:  # of another version, or no spec at all
        return None


def _answer(before: int, after: int, note: str, attribution: dslm.Attribution) -> AttributionAnswer:
    return AttributionAnswer(
        baseline_step=before,
        step=after,
        note=note,
        terms=list(TERMS),
        stacks={name: _stack(stack) for name, stack in attribution.stacks.items()},
        missing=[
            MissingInfo(where=part.where, what=part.what, why=part.why)
            for part in attribution.missing
        ],
    )


def _stack(stack: dslm.StackAttribution) -> StackAnswer:
    steps = dict.fromkeys((*stack.branches, *stack.branches_backward))
    return StackAnswer(
        forward=_direction(stack.forward),
        backward=_direction(stack.backward),
        cumulative=_direction(stack.cumulative),
        branches={
            step: BranchAnswer(
                forward=_branch(stack.branches.get(step)),
                backward=_branch(stack.branches_backward.get(step)),
            )
            for step in steps
        },
        parts=[_part(part) for part in stack.parts],
        sentences=list(stack.sentences),
    )


def _branch(direction: dslm.Direction | None) -> DirectionAnswer | None:
    return None if direction is None else _direction(direction)


def _direction(direction: dslm.Direction) -> DirectionAnswer:
    return DirectionAnswer(
        total=_decades(direction.total),
        terms={term: _decades(values) for term, values in direction.terms.items()},
    )


def _part(part: dslm.PartShare) -> PartAnswer:
    return PartAnswer(
        block=part.block,
        direction=part.direction,
        part=part.part,
        term=part.term,
        decades=part.decades,
        branch_decades=_finite(part.branch_decades),
        shared=_finite(part.shared),
    )


def _decades(values: Floats) -> Decades:
    return [_finite(value) for value in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
