"""Sums over the positions a query sees, and over the queries that see a position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslm.spec import Attention, Floats, Kernel


@dataclass(frozen=True, slots=True)
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

    def keys(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each query cell, the sum of `values` over the keys it sees."""
        if not self._partial:
            return _whole(values, self.key_sizes, len(self.query_sizes), axis)
        if self.window is None:
            return _upto(values, self.key_sizes, axis)
        return _between(values, self.key_sizes, *self._keys_seen(), axis=axis)

    def queries(self, values: Floats, axis: int = 0) -> Floats:
        """Return, for each key cell, the sum of `values` over the queries that see it."""
        if not self._partial:
            return _whole(values, self.query_sizes, len(self.key_sizes), axis)
        if self.window is None:
            after = _upto(np.flip(values, axis), self.query_sizes[::-1], axis)
            return np.flip(after, axis)
        return _between(values, self.query_sizes, *self._queries_seeing(), axis=axis)

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
        return _shared(values, self.key_sizes, *self._keys_seen())

    def common_queries(self, values: Floats) -> Floats:
        """Sum (cells,) `values` over the queries that see both the row's and the column's key."""
        if not self._partial:
            n = len(self.key_sizes)
            return np.broadcast_to(self.query_sizes @ values, (n, n))
        return _shared(values, self.query_sizes, *self._queries_seeing())

    @property
    def _partial(self) -> bool:
        return self.causal or self.window is not None

    def _keys_seen(self) -> tuple[Floats, Floats]:
        """Return (start, end) in tokens of what each query cell sees."""
        last = np.cumsum(self.key_sizes)
        if not self.causal:
            return self._to_either_side(last)
        end = last - (self.key_sizes - 1) / 2
        start = np.zeros_like(end) if self.window is None else np.maximum(end - self.window, 0.0)
        return start, end

    def _queries_seeing(self) -> tuple[Floats, Floats]:
        last = np.cumsum(self.query_sizes)
        if not self.causal:
            return self._to_either_side(last)
        start = last - (self.query_sizes + 1) / 2
        end = np.full_like(start, last[-1])
        return start, end if self.window is None else np.minimum(start + self.window, last[-1])

    def _to_either_side(self, last: Floats) -> tuple[Floats, Floats]:
        assert self.window is not None
        centre, reach = last - self.key_sizes / 2, self.window + 0.5
        return np.maximum(centre - reach, 0.0), np.minimum(centre + reach, last[-1])


def visibility(x: Kernel, memory: Kernel, attention: Attention) -> Visibility:
    """Return what the queries, on the cells of `x`, see of the keys, on those of `memory`."""
    key_sizes, query_sizes = (k.cell_sizes.astype(np.float64) for k in (memory, x))
    return Visibility(key_sizes, query_sizes, attention.causal, attention.window)


def _whole(values: Floats, sizes: Floats, n: int, axis: int) -> Floats:
    total = np.expand_dims(np.tensordot(sizes, values, axes=(0, axis)), axis)
    shape = (*values.shape[:axis], n, *values.shape[axis + 1 :])
    return np.broadcast_to(total, shape)


def _upto(values: Floats, sizes: Floats, axis: int) -> Floats:
    """Sum along `axis` up to the middle of each cell's tokens, half of a token more."""
    shape = [1] * values.ndim
    shape[axis] = -1
    w = sizes.reshape(shape)
    return np.asarray(np.cumsum(w * values, axis=axis) - (w - 1) / 2 * values)


def _between(values: Floats, sizes: Floats, start: Floats, end: Floats, *, axis: int) -> Floats:
    """Sum along `axis` from each start to each end, in tokens; parts of cells count in part."""
    total = _running(values, sizes, axis)
    upper = _at(total, sizes, end, axis)
    return upper - _at(total, sizes, start, axis) if start.any() else upper


def _shared(values: Floats, sizes: Floats, start: Floats, end: Floats) -> Floats:
    """Sum over what the row's and the column's ranges share."""
    upper, lower = np.minimum.outer(end, end), np.maximum.outer(start, start)
    total = _running(values, sizes, 0)
    upto = np.concatenate([[0.0], np.cumsum(sizes)])
    found = np.interp(np.maximum(upper, lower), upto, total) - np.interp(lower, upto, total)
    return np.asarray(found)


def _running(values: Floats, sizes: Floats, axis: int) -> Floats:
    shape = [1] * values.ndim
    shape[axis] = -1
    pad = [(0, 0)] * values.ndim
    pad[axis] = (1, 0)
    return np.pad(np.cumsum(sizes.reshape(shape) * values, axis=axis), pad)


def _at(total: Floats, sizes: Floats, where: Floats, axis: int) -> Floats:
    """Return running totals at token positions, linear within a cell."""
    last = np.cumsum(sizes)
    cell = np.minimum(np.searchsorted(last, where, side="right"), len(sizes) - 1)
    share = (where - (last[cell] - sizes[cell])) / sizes[cell]
    lower, upper = np.take(total, cell, axis), np.take(total, cell + 1, axis)
    shape = [1] * total.ndim
    shape[axis] = -1
    return np.asarray(lower + share.reshape(shape) * (upper - lower))
