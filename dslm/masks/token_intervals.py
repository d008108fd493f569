"""Sums over intervals of tokens, on cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dslm.spec import Floats

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenIntervals:
    """Intervals of tokens whose starts and ends never decrease; a cell cut in two counts in part.

    Attributes:
        sizes: (cells,) tokens per cell of what is summed.
        start, end: (intervals,) in tokens from the first.
    """

    sizes: Floats
    start: Floats
    end: Floats

    @cached_property
    def tokens(self) -> Floats:
        """(intervals, cells) how many tokens of each cell lie in each interval.

        A product with it takes half the time of running sums, up to about 200 cells.
        """
        return self._before_ends - self._before_starts

    def overlap_sums(self, values: Floats) -> Floats:
        """Return (..., intervals, intervals) sums of (..., cells) over each pair's overlap."""
        first_end, last_start, disjoint = self._pairs
        sums = np.asarray((values @ self._before_ends.T)[..., first_end])
        if self.start.any():  # without, half of the work falls
            sums -= (values @ self._before_starts.T)[..., last_start]
            sums[..., disjoint] = 0.0
        return sums

    @cached_property
    def _pairs(self) -> tuple[Index, Index, NDArray[np.bool_]]:
        """Of each pair: which ends first, which starts last, and whether the two are disjoint."""
        index = np.arange(len(self.end))
        first_end, last_start = np.minimum.outer(index, index), np.maximum.outer(index, index)
        return first_end, last_start, self.end[first_end] <= self.start[last_start]

    @cached_property
    def _before_ends(self) -> Floats:
        return _tokens_before(self.sizes, self.end)

    @cached_property
    def _before_starts(self) -> Floats:
        return _tokens_before(self.sizes, self.start)


def _tokens_before(sizes: Floats, position: Floats) -> Floats:
    """Return (positions, cells) how many tokens of each cell lie before each position."""
    first = np.cumsum(sizes) - sizes
    return np.asarray(np.clip(np.subtract.outer(position, first), 0.0, sizes))
