"""An attribution's numbers, in decades: log10 of a variance's ratio between two moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dslm.attribution.change import Term
from dslm.spec import Floats, Missing


@dataclass(frozen=True, slots=True)
class Direction:
    """A ratio for every block, and the terms it is the sum of.

    Attributes:
        total: (blocks,) decades; NaN where nothing can be said, as `Attribution.missing` tells.
        terms: (blocks,) decades each; they add up to `total`.
    """

    total: Floats
    terms: Mapping[Term, Floats]


@dataclass(frozen=True, slots=True)
class PartShare:
    """What one part of a block contributes to the block's total.

    Attributes:
        block: index of the block.
        direction: ``"forward"`` or ``"backward"``.
        part: ``"attention.output"``, ``"feed_forward_norm"``, ``"attention"``, ``"stream"``.
        term: which term it belongs to.
        decades: its share of the block's total.
        branch_decades: the change of the branch's own variance that it makes; NaN outside of
            branches.
        shared: of what the part reads, the share that lies in the direction common to all tokens,
            now; NaN where not measured.
    """

    block: int
    direction: str
    part: str
    term: Term
    decades: float
    branch_decades: float
    shared: float


@dataclass(frozen=True, slots=True)
class StackAttribution:
    """One stack.

    Attributes:
        forward: of the variance of the stream behind each block. `entering` is what the residual
            connection brings from the block's input.
        backward: of the gradient's gain of each block, E[g²] before it over that behind it.
        cumulative: `forward` with `entering` followed through all blocks below; what is left of
            that term is the change of what enters the stack.
        branches: by step (``"attention"``, ``"feed_forward"``, ``"cross"``), forward: of the
            variance that the branch adds.
        branches_backward: of the E[g²] that the branch returns to the stream, over that behind
            the block.
        parts: the largest contributions first.
        sentences: what stands out, in words.
    """

    forward: Direction
    backward: Direction
    cumulative: Direction
    branches: Mapping[str, Direction]
    branches_backward: Mapping[str, Direction]
    parts: tuple[PartShare, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attribution:
    """Both directions of every stack, and what could not be attributed."""

    stacks: Mapping[str, StackAttribution]
    missing: tuple[Missing, ...] = ()
