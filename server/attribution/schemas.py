"""The JSON form of an attribution: decades, log10 of a variance's ratio; null where missing."""

from __future__ import annotations

from server.schemas import Answer, MissingInfo

Decades = list[float | None]


class DirectionAnswer(Answer):
    """One value a block; `terms` add up to `total`."""

    total: Decades
    terms: dict[str, Decades]


class BranchAnswer(Answer):
    """What a branch adds to the stream, and what it returns to the stream's gradient."""

    forward: DirectionAnswer | None
    backward: DirectionAnswer | None


class PartAnswer(Answer):
    """One part's share of its block's total.

    `branch_decades` is the change of the branch's own variance that it makes; `shared` the share
    of what it reads that is common to all tokens. Either is null where it has no meaning.
    """

    block: int
    direction: str
    part: str
    term: str
    decades: float
    branch_decades: float | None
    shared: float | None


class StackAnswer(Answer):
    """One stack: `cumulative` is `forward` with `entering` followed through the blocks below."""

    forward: DirectionAnswer
    backward: DirectionAnswer
    cumulative: DirectionAnswer
    branches: dict[str, BranchAnswer]
    parts: list[PartAnswer]
    sentences: list[str]


class AttributionAnswer(Answer):
    """The description of `step`, the last up to the step asked for, against `baseline_step`'s."""

    baseline_step: int
    step: int
    note: str
    terms: list[str]
    stacks: dict[str, StackAnswer]
    missing: list[MissingInfo]
