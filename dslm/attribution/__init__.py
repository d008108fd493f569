"""Why the stream of today has another variance than the one at initialisation, in decades."""

from __future__ import annotations

from dslm.attribution.attribute import attribute
from dslm.attribution.change import TERMS, Term
from dslm.attribution.result import Attribution, Direction, PartShare, StackAttribution

__all__ = [
    "TERMS",
    "Attribution",
    "Direction",
    "PartShare",
    "StackAttribution",
    "Term",
    "attribute",
]
