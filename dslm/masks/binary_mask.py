"""Sums over the keys that a query sees, and over the queries that see a key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from dslm.masks.pair_sums import PairSums, sum_along
from dslm.masks.token_intervals import TokenIntervals
from dslm.spec import Attention, Floats, Kernel


@dataclass(frozen=True, eq=False)
class BinaryMask(PairSums):
    """Which keys each query sees, every visible key counting as one, on grids of cells.

    Under a causal mask, a query of cell A sees all w_a tokens of the cells a < A and, on average,
    (w_A + 1)/2 tokens of its cell A: exact for cells of one token. Without a causal mask it sees
    every token. A window limits this to the last `window` tokens, or to that many on either side.

    Attributes:
        key_sizes, query_sizes: (cells,) tokens per cell, as floats. They differ only in
            cross-attention, which is not causal.
        causal: whether token i sees only tokens up to i.
        window: the most tokens that a query sees, itself included (causal), or how many it sees
            to either side; None for all.
    """

    key_sizes: Floats
    query_sizes: Floats
    causal: bool
    window: int | None = None

    @cached_property
    def keys_per_query(self) -> Floats:
        """(query cells,) the number of keys that a query sees."""
        return self.keys(np.ones_like(self.key_sizes))

    def keys(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each query cell, the sum of `values` over the keys it sees."""
        if not self._partial:  # a special case of intervals, but cheaper
            return _full_sum(values, self.key_sizes, len(self.query_sizes), axis)
        return sum_along(self._key_intervals.tokens, values, axis)

    def queries(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each key cell, the sum of `values` over the queries that see it."""
        if not self._partial:
            return _full_sum(values, self.query_sizes, len(self.key_sizes), axis)
        return sum_along(self._query_intervals.tokens, values, axis)

    def common_keys(self, values: Floats) -> Floats:
        """Sum (..., cells) `values` over the keys that row and column query both see."""
        if not self._partial:
            return _everywhere(values @ self.key_sizes, len(self.query_sizes))
        return self._key_intervals.overlap_sums(values)

    def squares_over_queries(self, values: Floats) -> Floats:
        """Return, for each key cell, the sum of (..., cells) `values` over what sees it."""
        return self.queries(values, -1)

    def common_queries(self, values: Floats) -> Floats:
        """Sum (..., cells) `values` over the queries that see the row's and the column's key."""
        if not self._partial:
            return _everywhere(values @ self.query_sizes, len(self.key_sizes))
        return self._query_intervals.overlap_sums(values)

    @property
    def _partial(self) -> bool:
        return self.causal or self.window is not None

    @cached_property
    def _key_intervals(self) -> TokenIntervals:
        """What each query cell sees, from the middle of its tokens."""
        last = np.cumsum(self.key_sizes)
        if not self.causal:
            return self._to_either_side(last)
        end = last - (self.key_sizes - 1) / 2
        start = np.zeros_like(end) if self.window is None else np.maximum(end - self.window, 0.0)
        return TokenIntervals(self.key_sizes, start, end)

    @cached_property
    def _query_intervals(self) -> TokenIntervals:
        last = np.cumsum(self.query_sizes)
        if not self.causal:
            return self._to_either_side(last)
        start = last - (self.query_sizes + 1) / 2
        end = np.full_like(start, last[-1])
        if self.window is not None:
            end = np.minimum(start + self.window, last[-1])
        return TokenIntervals(self.query_sizes, start, end)

    def _to_either_side(self, last: Floats) -> TokenIntervals:
        assert self.window is not None
        centre, reach = last - self.key_sizes / 2, self.window + 0.5
        start, end = np.maximum(centre - reach, 0.0), np.minimum(centre + reach, last[-1])
        return TokenIntervals(self.key_sizes, start, end)


def binary_mask(x: Kernel, memory: Kernel, attention: Attention) -> BinaryMask:
    """Return what queries on the cells of `x` see of the keys on the cells of `memory`."""
    keys, queries = (k.cell_sizes.astype(np.float64).tobytes() for k in (memory, x))
    return _cached_mask(keys, queries, attention.causal, attention.window)


@lru_cache(maxsize=8)  # most layers of a model have the same mask
def _cached_mask(keys: bytes, queries: bytes, causal: bool, window: int | None) -> BinaryMask:
    return BinaryMask(np.frombuffer(keys), np.frombuffer(queries), causal, window)


def _everywhere(total: Floats, n: int) -> Floats:
    """Repeat each number over n rows and n columns."""
    return np.broadcast_to(total[..., None, None], (*total.shape, n, n))


def _full_sum(values: Floats, sizes: Floats, n: int, axis: int) -> Floats:
    """Sum along `axis` over all tokens, repeated for `n` cells."""
    axis %= values.ndim
    total = np.expand_dims(np.tensordot(sizes, values, axes=(0, axis)), axis)
    shape = (*values.shape[:axis], n, *values.shape[axis + 1 :])
    return np.broadcast_to(total, shape)
