"""Sums over pairs of tokens, which every mask makes of its sums over single ones."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from dslm.spec import Floats


class PairSums(ABC):
    """Sums over pairs of keys, or of queries, by the weights with which a query sees a key."""

    __slots__ = ()

    @abstractmethod
    def keys(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each query cell, the weighted sum of `values` over the keys."""

    @abstractmethod
    def queries(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each key cell, the weighted sum of `values` over the queries."""

    @abstractmethod
    def common_keys(self, values: Floats) -> Floats:
        """Sum (..., cells) over keys, weighed by both the row's and the column's query."""

    @abstractmethod
    def common_queries(self, values: Floats) -> Floats:
        """Sum (..., cells) over queries, weighed by both the row's and the column's key."""

    def key_pairs(self, matrices: Floats) -> Floats:
        """Sum (..., cells, cells) over keys j≠k, weighed by the row's and the column's query."""
        both = self.keys(self.keys(matrices, -2), -1)
        diagonal = np.diagonal(matrices, axis1=-2, axis2=-1)
        return both - self.common_keys(diagonal) if diagonal.any() else both

    def all_queries(self, alone: Floats, pairs: Floats) -> Floats:
        """Sum over queries i, i', weighed by the row's key and by the column's.

        Args:
            alone: (..., cells) what is summed for i=i'.
            pairs: (..., cells, cells) what is summed otherwise; equal to `alone` for i=i' in
                cells of one token.
        """
        both = self.queries(self.queries(pairs, -2), -1)
        more = alone - np.diagonal(pairs, axis1=-2, axis2=-1)
        return both + self.common_queries(more) if more.any() else both


def sum_along(weights: Floats, values: Floats, axis: int) -> Floats:
    """Return (rows, cells) `weights` times `values` along `axis`, the last or the one before."""
    last = axis % values.ndim == values.ndim - 1
    return np.asarray(values @ weights.T if last else weights @ values)
