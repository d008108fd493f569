"""The stream's mean directions, propagated through the weights themselves, not their moments."""

from __future__ import annotations

from dslm.directions.attention import Projections, attend
from dslm.directions.feed_forward import feed_forward
from dslm.directions.mixture import (
    Branch,
    BranchInput,
    Dense,
    Gain,
    Mixture,
    add,
    dropped,
    normed,
    read,
)

__all__ = [
    "Branch",
    "BranchInput",
    "Dense",
    "Gain",
    "Mixture",
    "Projections",
    "add",
    "attend",
    "dropped",
    "feed_forward",
    "normed",
    "read",
]
