"""Runs of neighbouring layers, and how they are named in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring layers, both ends inclusive; layer 0 is the input of block 0."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"layer {self.first}" if len(self) == 1 else f"layers {self.first}–{self.last}"


def longest_run(holds: NDArray[np.bool_]) -> Span | None:
    """The longest run of neighbours where `holds`; the deepest of equals; None where none does."""
    # Padded with False, so that a run at either end has both its edges.
    edges = np.flatnonzero(np.diff(np.concatenate(([False], holds, [False])).astype(np.int8)))
    if not len(edges):
        return None
    firsts, ends = edges[::2], edges[1::2]
    # argmax takes the first of equals: reversed, the deepest.
    best = len(firsts) - 1 - int(np.argmax((ends - firsts)[::-1]))
    return Span(int(firsts[best]), int(ends[best]) - 1)


def number(value: float) -> str:
    """A number as a sentence wants it: three digits, powers of ten where they help."""
    if not np.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 999.5:
        return f"{value:.3g}"
    if 999.5 <= abs(value) < 1e4:
        return f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def closeness(correlation: float) -> str:
    """A correlation near 1, by its distance from 1 so that 0.9998 is not read as 1."""
    return "1" if correlation >= 1 else f"1 − {number(1 - correlation)}"
