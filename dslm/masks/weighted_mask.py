r"""Sums over positions that weigh by their distance: a bias on the scores, or a prefix.

A bias :math:`b_{i-j}` added to the scores multiplies softmax weights by :math:`e^{b_{i-j}}`, so
every sum over the keys that a query sees becomes a sum weighted by
:math:`W_{ij} = e^{b_{i-j}} 1[i\text{ sees }j]`, and the kernel recursion stays as it is:

.. math:: E[a_{ij} a_{i'k}] = W_{ij} W_{i'k}\, e^{Q_{ii'} T_{jk}} / Z_{ii'}

A factor common to a query's keys cancels in its softmax. Rows are scaled so that
:math:`\sum_j W_{ij} = \sum_j W_{ij}^2`, which a mask of 0 and 1 fulfils by itself: that sum is
then the number of keys that the query's weights are spread over.

Source: derived here. Exact for cells of one token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dslm.masks.pair_sums import PairSums, sum_along
from dslm.spec import Floats

MAX_SUBCELLS = 4  # per cell; weights vary within a wide cell, and this is how finely


@dataclass(frozen=True, slots=True)
class Subcells:
    """The cells of a sequence, each cut into at most ``MAX_SUBCELLS`` subcells.

    Attributes:
        cells: (cells,) tokens of each cell.
        cell: (subcells,) the index of the cell that a subcell lies in.
        start, stop: (subcells,) the tokens of a subcell, half open.
    """

    cells: Floats
    cell: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @property
    def sizes(self) -> Floats:
        """(subcells,) tokens of each subcell."""
        return (self.stop - self.start).astype(np.float64)


def split_cells(cell_sizes: NDArray[np.int64]) -> Subcells:
    """Return the subcells of (cells,) cells of `cell_sizes` tokens each."""
    counts = np.minimum(cell_sizes, MAX_SUBCELLS)
    sizes = [np.diff(np.arange(n + 1) * w // n) for n, w in zip(counts, cell_sizes, strict=True)]
    cell = np.repeat(np.arange(len(cell_sizes)), [len(s) for s in sizes])
    stop = np.cumsum(np.concatenate(sizes))
    start = np.concatenate([[0], stop[:-1]])
    return Subcells(cell_sizes.astype(np.float64), cell, start, stop)


@dataclass(frozen=True, slots=True)
class WeightedMask(PairSums):
    """How much each key counts for each query; gives the same sums as `BinaryMask`.

    Attributes:
        key_sizes, query_sizes: (cells,) tokens per cell.
        key_subcells, query_subcells: the same cells in subcells.
        to_keys: (query cells, key subcells) mean W.
        to_queries: (query subcells, key cells) mean W.
        key_sums: (query cells, key cells) mean over queries of the sum of W over the keys.
        query_sums: (query cells, key cells) mean over keys of the sum of W over the queries.
        key_squares, query_squares: the same of W².
    """

    key_sizes: Floats
    query_sizes: Floats
    key_subcells: Subcells
    query_subcells: Subcells
    to_keys: Floats
    to_queries: Floats
    key_sums: Floats
    query_sums: Floats
    key_squares: Floats
    query_squares: Floats

    @property
    def keys_per_query(self) -> Floats:
        """(query cells,) the number of keys that a query's weights are spread over."""
        return np.asarray(self.key_sums.sum(axis=1))

    def keys(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each query cell, the weighted sum of `values` over the keys."""
        return sum_along(self.key_sums, values, axis)

    def queries(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each key cell, the weighted sum of `values` over the queries."""
        return sum_along(self.query_sums.T, values, axis)

    def common_keys(self, values: Floats) -> Floats:
        """Sum (..., cells) over keys weighed by both the row's and the column's query."""
        weight = self.key_subcells.sizes * values[..., self.key_subcells.cell]
        overlap = (self.to_keys * weight[..., None, :]) @ self.to_keys.T
        # exact for a query with itself, where products of means over subcells would not be
        return _with_diagonal(overlap, values @ self.key_squares.T)

    def squares_over_queries(self, values: Floats) -> Floats:
        """Return, for each key cell, the sum of (..., cells) `values` weighed by W²."""
        return np.asarray(values @ self.query_squares)

    def common_queries(self, values: Floats) -> Floats:
        """Sum (..., cells) over queries weighed by both the row's and the column's key."""
        weight = self.query_subcells.sizes * values[..., self.query_subcells.cell]
        overlap = (self.to_queries.T * weight[..., None, :]) @ self.to_queries
        return _with_diagonal(overlap, self.squares_over_queries(values))


def weighted_mask(mean: Floats, square: Floats, queries: Subcells, keys: Subcells) -> WeightedMask:
    """Return the mask of (query subcells, key subcells) means of W and of W² over their tokens."""
    u, v = queries.sizes[:, None], keys.sizes
    unscaled = WeightedMask(
        key_sizes=keys.cells,
        query_sizes=queries.cells,
        key_subcells=keys,
        query_subcells=queries,
        to_keys=_by_cell(mean * u, queries, 0) / queries.cells[:, None],
        to_queries=_by_cell(mean * v, keys, 1) / keys.cells,
        key_sums=_over_cells(mean * u * v, queries, keys) / queries.cells[:, None],
        query_sums=_over_cells(mean * u * v, queries, keys) / keys.cells,
        key_squares=_over_cells(square * u * v, queries, keys) / queries.cells[:, None],
        query_squares=_over_cells(square * u * v, queries, keys) / keys.cells,
    )
    scale = (unscaled.key_sums.sum(axis=1) / unscaled.key_squares.sum(axis=1))[:, None]
    return replace(
        unscaled,
        to_keys=unscaled.to_keys * scale,
        to_queries=unscaled.to_queries * scale[queries.cell],
        key_sums=unscaled.key_sums * scale,
        query_sums=unscaled.query_sums * scale,
        key_squares=unscaled.key_squares * scale**2,
        query_squares=unscaled.query_squares * scale**2,
    )


def _over_cells(matrix: Floats, queries: Subcells, keys: Subcells) -> Floats:
    return _by_cell(_by_cell(matrix, queries, 0), keys, 1)


def _by_cell(matrix: Floats, subcells: Subcells, axis: int) -> Floats:
    if len(subcells.cell) == len(subcells.cells):
        return matrix
    first = np.searchsorted(subcells.cell, np.arange(len(subcells.cells)))
    return np.asarray(np.add.reduceat(matrix, first, axis=axis))


def _with_diagonal(matrices: Floats, diagonal: Floats) -> Floats:
    index = np.arange(diagonal.shape[-1])
    matrices[..., index, index] = diagonal
    return matrices
