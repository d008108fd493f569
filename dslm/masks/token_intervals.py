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

    def sums(self, values: Floats, axis: int) -> Floats:
        """Return the sum of `values` along `axis` over the tokens of each interval."""
        total = self._running_total(values, axis)
        upper = self._ends.interpolate(total, axis)
        return upper - self._starts.interpolate(total, axis) if self._starts_late else upper

    def overlap_sums(self, values: Floats) -> Floats:
        """Return (..., intervals, intervals) sums of (..., cells) over each pair's overlap."""
        total = self._running_total(values, -1)
        first_end, last_start, disjoint = self._pairs
        sums = self._ends.interpolate(total, -1)[..., first_end]
        if self._starts_late:
            sums -= self._starts.interpolate(total, -1)[..., last_start]
            sums[..., disjoint] = 0.0
        return sums

    @cached_property
    def _starts_late(self) -> bool:
        """Whether any interval begins after the first token: without, half of the work falls."""
        return bool(self.start.any())

    @cached_property
    def _pairs(self) -> tuple[Index, Index, NDArray[np.bool_]]:
        """Of each pair: which ends first, which starts last, and whether the two are disjoint."""
        index = np.arange(len(self.end))
        first_end, last_start = np.minimum.outer(index, index), np.maximum.outer(index, index)
        return first_end, last_start, self.end[first_end] <= self.start[last_start]

    @cached_property
    def _ends(self) -> _CellPositions:
        return _cell_positions(self.sizes, self.end)

    @cached_property
    def _starts(self) -> _CellPositions:
        return _cell_positions(self.sizes, self.start)

    def _running_total(self, values: Floats, axis: int) -> Floats:
        """Cumulative sums along `axis` at the cells' edges, 0 at the first."""
        shape = list(values.shape)
        shape[axis] += 1
        total = np.zeros(shape)
        weighted = _along(self.sizes, axis, values.ndim) * values
        inner = [slice(None)] * values.ndim
        inner[axis] = slice(1, None)
        np.cumsum(weighted, axis=axis, out=total[tuple(inner)])
        return total


@dataclass(frozen=True, eq=False)
class _CellPositions:
    """Positions in a row of cells: which cell, and how far into it, from 0 to 1."""

    cell: Index
    fraction: Floats

    def interpolate(self, total: Floats, axis: int) -> Floats:
        """Return running totals at the positions, linear within a cell."""
        # in place: these arrays are (cells, cells), and a windowed layer takes many
        lower, upper = np.take(total, self.cell, axis), np.take(total, self.cell + 1, axis)
        upper -= lower
        upper *= _along(self.fraction, axis, total.ndim)
        lower += upper
        return lower


def _cell_positions(sizes: Floats, tokens: Floats) -> _CellPositions:
    last = np.cumsum(sizes)
    cell = np.minimum(np.searchsorted(last, tokens, side="right"), len(sizes) - 1)
    return _CellPositions(cell, (tokens - (last[cell] - sizes[cell])) / sizes[cell])


def _along(values: Floats, axis: int, ndim: int) -> Floats:
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)
