"""Sums over ranges of tokens, on cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dslm.spec import Floats

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranges:
    """Ranges of tokens whose starts and ends never go back; parts of cells count in part.

    Attributes:
        sizes: (cells,) tokens per cell of what is summed.
        start, end: (ranges,) in tokens from the first.
    """

    sizes: Floats
    start: Floats
    end: Floats

    def sums(self, values: Floats, axis: int) -> Floats:
        """Return the sum of `values` along `axis` over the tokens of each range."""
        total = self._running(values, axis)
        upper = self._ends.of(total, axis)
        return upper - self._starts.of(total, axis) if self._late else upper

    def shared(self, values: Floats) -> Floats:
        """Return (ranges, ranges) sums of (cells,) `values` over what two ranges share."""
        total = self._running(values, 0)
        earlier, later, apart = self._pairs
        found = self._ends.of(total, 0)[earlier]
        if self._late:
            found -= self._starts.of(total, 0)[later]
            found[apart] = 0.0
        return found

    @cached_property
    def _late(self) -> bool:
        return bool(self.start.any())

    @cached_property
    def _pairs(self) -> tuple[Index, Index, NDArray[np.bool_]]:
        """Return which of two ranges ends first, which starts last, and whether none is shared."""
        index = np.arange(len(self.end))
        earlier, later = np.minimum.outer(index, index), np.maximum.outer(index, index)
        return earlier, later, self.end[earlier] <= self.start[later]

    @cached_property
    def _ends(self) -> _Places:
        return _places(self.sizes, self.end)

    @cached_property
    def _starts(self) -> _Places:
        return _places(self.sizes, self.start)

    def _running(self, values: Floats, axis: int) -> Floats:
        shape = list(values.shape)
        shape[axis] += 1
        total = np.zeros(shape)
        weighted = _along(self.sizes, axis, values.ndim) * values
        inner = [slice(None)] * values.ndim
        inner[axis] = slice(1, None)
        np.cumsum(weighted, axis=axis, out=total[tuple(inner)])
        return total


@dataclass(frozen=True, eq=False)
class _Places:
    """Places in a row of cells: which cell, and how far into it, from 0 to 1."""

    cell: Index
    share: Floats

    def of(self, total: Floats, axis: int) -> Floats:
        """Return running totals at the places, linear within a cell."""
        lower, upper = np.take(total, self.cell, axis), np.take(total, self.cell + 1, axis)
        upper -= lower
        upper *= _along(self.share, axis, total.ndim)
        lower += upper
        return lower


def _places(sizes: Floats, where: Floats) -> _Places:
    last = np.cumsum(sizes)
    cell = np.minimum(np.searchsorted(last, where, side="right"), len(sizes) - 1)
    return _Places(cell, (where - (last[cell] - sizes[cell])) / sizes[cell])


def _along(values: Floats, axis: int, ndim: int) -> Floats:
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)
