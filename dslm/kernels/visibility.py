"""Sums over the positions a query sees, and over the queries that see a position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from dslm.kernels.ranges import Ranges
from dslm.spec import Attention, Floats, Kernel


@dataclass(frozen=True, eq=False)
class Visibility:
    """Which keys each query sees, on grids of cells.

    Causally, a query of cell A sees all w_a tokens of the cells a < A and, on average,
    (w_A + 1)/2 of its own: exact for cells of one token. Without `causal` it sees every token.
    With a window it sees no more than that many back from there, or to either side.

    Attributes:
        key_sizes, query_sizes: (cells,) tokens per cell, as floats; the same but in
            cross-attention, which is not causal.
        causal: whether token i sees only tokens up to i.
        window: how many tokens it sees at most, itself included (causal), or how many to either
            side; None for all.
    """

    key_sizes: Floats
    query_sizes: Floats
    causal: bool
    window: int | None = None

    @cached_property
    def n_seen(self) -> Floats:
        """Return (query cells,) how many keys a query sees."""
        return self.keys(np.ones_like(self.key_sizes))

    def keys(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each query cell, the sum of `values` over the keys it sees."""
        if not self._partial:
            return _whole(values, self.key_sizes, len(self.query_sizes), axis)
        if self.window is None:
            return _upto(values, self.key_sizes, axis)
        return self._keys_seen.sums(values, axis)

    def queries(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each key cell, the sum of `values` over the queries that see it."""
        if not self._partial:
            return _whole(values, self.query_sizes, len(self.key_sizes), axis)
        if self.window is None:
            after = _upto(np.flip(values, axis), self.query_sizes[::-1], axis)
            return np.flip(after, axis)
        return self._queries_seeing.sums(values, axis)

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
        if not self._partial:
            n = len(self.query_sizes)
            return np.broadcast_to(self.key_sizes @ values, (n, n))
        return self._keys_seen.shared(values)

    def common_queries(self, values: Floats) -> Floats:
        """Sum (cells,) `values` over the queries that see both the row's and the column's key."""
        if not self._partial:
            n = len(self.key_sizes)
            return np.broadcast_to(self.query_sizes @ values, (n, n))
        return self._queries_seeing.shared(values)

    @property
    def _partial(self) -> bool:
        return self.causal or self.window is not None

    @cached_property
    def _keys_seen(self) -> Ranges:
        """In tokens, what each query cell sees."""
        last = np.cumsum(self.key_sizes)
        if not self.causal:
            return self._to_either_side(last)
        end = last - (self.key_sizes - 1) / 2
        start = np.zeros_like(end) if self.window is None else np.maximum(end - self.window, 0.0)
        return Ranges(self.key_sizes, start, end)

    @cached_property
    def _queries_seeing(self) -> Ranges:
        last = np.cumsum(self.query_sizes)
        if not self.causal:
            return self._to_either_side(last)
        start = last - (self.query_sizes + 1) / 2
        end = np.full_like(start, last[-1])
        if self.window is not None:
            end = np.minimum(start + self.window, last[-1])
        return Ranges(self.query_sizes, start, end)

    def _to_either_side(self, last: Floats) -> Ranges:
        assert self.window is not None
        centre, reach = last - self.key_sizes / 2, self.window + 0.5
        start, end = np.maximum(centre - reach, 0.0), np.minimum(centre + reach, last[-1])
        return Ranges(self.key_sizes, start, end)


def visibility(x: Kernel, memory: Kernel, attention: Attention) -> Visibility:
    """Return what the queries, on the cells of `x`, see of the keys, on those of `memory`."""
    keys, queries = (k.cell_sizes.astype(np.float64).tobytes() for k in (memory, x))
    return _visibility(keys, queries, attention.causal, attention.window)


@lru_cache(maxsize=8)  # layers share their masks
def _visibility(keys: bytes, queries: bytes, causal: bool, window: int | None) -> Visibility:
    return Visibility(np.frombuffer(keys), np.frombuffer(queries), causal, window)


def _whole(values: Floats, sizes: Floats, n: int, axis: int) -> Floats:
    total = np.expand_dims(np.tensordot(sizes, values, axes=(0, axis)), axis)
    shape = (*values.shape[:axis], n, *values.shape[axis + 1 :])
    return np.broadcast_to(total, shape)


def _upto(values: Floats, sizes: Floats, axis: int) -> Floats:
    """Sum along `axis` up to the middle of each cell's tokens, half of a token more."""
    shape = [1] * values.ndim
    shape[axis] = -1
    weighted = sizes.reshape(shape) * values
    total = np.cumsum(weighted, axis=axis)
    if (sizes > 1).any():
        weighted *= ((sizes - 1) / (2 * sizes)).reshape(shape)
        total -= weighted
    return total
