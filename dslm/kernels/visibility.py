"""Sums over the positions a query sees, and over the queries that see a position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslm.spec import Floats


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which keys each query sees, on a grid of cells.

    A query of cell A sees all w_a tokens of the cells a < A and, on average, (w_A + 1)/2 of its
    own: exact for cells of one token. Without `causal` it sees every token.

    Attributes:
        cell_sizes: (cells,) tokens per cell, as floats.
        causal: whether token i sees only tokens up to i.
    """

    cell_sizes: Floats
    causal: bool

    def keys(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each query cell, the sum of `values` over the keys it sees."""
        return self._sum(values, axis, reverse=False)

    def queries(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each key cell, the sum of `values` over the queries that see it."""
        return self._sum(values, axis, reverse=True)

    def key_pairs(self, matrix: Floats) -> Floats:
        """Sum over keys j≠k where the row's query sees j and the column's sees k."""
        both = self.keys(self.keys(matrix, 0), 1)
        return both - self.common_keys(np.diagonal(matrix))

    def query_pairs(self, matrix: Floats) -> Floats:
        """Sum over queries i≠i' where i sees the row's key and i' the column's."""
        both = self.queries(self.queries(matrix, 0), 1)
        return both - self.common_queries(np.diagonal(matrix))

    def common_keys(self, values: Floats) -> Floats:
        """Sum (cells,) `values` over the keys that row and column query both see."""
        cells = np.arange(len(values))
        return self.keys(values)[np.minimum.outer(cells, cells)]

    def common_queries(self, values: Floats) -> Floats:
        """Sum (cells,) `values` over the queries that see both the row's and the column's key."""
        cells = np.arange(len(values))
        return self.queries(values)[np.maximum.outer(cells, cells)]

    def _sum(self, values: Floats, axis: int, *, reverse: bool) -> Floats:
        shape = [1] * values.ndim
        shape[axis] = -1
        w = self.cell_sizes.reshape(shape)
        weighted = w * values
        if not self.causal:
            return np.broadcast_to(weighted.sum(axis=axis, keepdims=True), values.shape)
        ordered = np.flip(weighted, axis) if reverse else weighted
        total = np.cumsum(ordered, axis=axis)
        total = np.flip(total, axis) if reverse else total
        return np.asarray(total - (w - 1) / 2 * values)
