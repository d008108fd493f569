"""The stream as a few directions carried through the weights themselves, not their moments."""

from __future__ import annotations

from dslm.directions.attention import Projections, attend
from dslm.directions.feed_forward import feed_forward
from dslm.directions.mixture import (
    Branch,
    Dense,
    Gain,
    Mixture,
    Reading,
    add,
    dropped,
    normed,
    read,
)

__all__ = [
    "Branch",
    "Dense",
    "Gain",
    "Mixture",
    "Projections",
    "Reading",
    "add",
    "attend",
    "dropped",
    "feed_forward",
    "normed",
    "read",
]
