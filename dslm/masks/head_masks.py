"""The masks of one attention: one for every group of heads with the same position bias."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dslm.masks.binary_mask import BinaryMask, binary_mask
from dslm.masks.weighted_mask import Subcells, WeightedMask, split_cells, weighted_mask
from dslm.position_bias import bias_at, head_groups
from dslm.spec import Attention, Floats, Kernel, PositionBias

Mask = BinaryMask | WeightedMask


def head_masks(x: Kernel, memory: Kernel, attention: Attention) -> list[tuple[float, Mask]]:
    """Return (share of the heads, their mask) a group of heads; the shares add up to 1."""
    bias = attention.position_bias
    if bias is None:
        return [(1.0, mask_without_bias(x, memory, attention))]
    return [
        (share, _weighted(x, memory, attention, of_group)) for share, of_group in head_groups(bias)
    ]


def mask_without_bias(x: Kernel, memory: Kernel, attention: Attention) -> Mask:
    """Return which keys a query sees, every visible key counting as one."""
    if attention.prefix == 0:
        return binary_mask(x, memory, attention)
    return _weighted(x, memory, attention, None)


def _weighted(
    x: Kernel, memory: Kernel, attention: Attention, bias: PositionBias | None
) -> WeightedMask:
    # bytes, as a cache needs keys that it can hash
    queries, keys = (k.cell_sizes.astype(np.int64).tobytes() for k in (x, memory))
    limits = (attention.causal, attention.window, attention.prefix)
    return _cached_mask(queries, keys, limits, bias)


@lru_cache(maxsize=16)  # most layers of a model have the same mask
def _cached_mask(
    queries: bytes,
    keys: bytes,
    limits: tuple[bool, int | None, int],
    bias: PositionBias | None,
) -> WeightedMask:
    cells = [split_cells(np.frombuffer(sizes, dtype=np.int64)) for sizes in (queries, keys)]
    causal, window, prefix = limits
    # softmax ignores a common shift; this one keeps exp(bias) from overflowing
    shift = _largest_bias(bias, causal, prefix, cells)
    masked, unmasked = (_weight_function(bias, shift, c, window) for c in (causal, False))
    mean, square = (
        _prefix_means(masked, unmasked, prefix, cells, power)
        if prefix
        else _pair_means(masked, cells, power)
        for power in (1, 2)
    )
    return weighted_mask(mean, square, *cells)


Tokens = NDArray[np.int64]
WeightFunction = Callable[[Floats], Floats]


def _largest_bias(
    bias: PositionBias | None, causal: bool, prefix: int, cells: list[Subcells]
) -> float:
    """Return the largest bias at any distance between a query and a key it sees."""
    n_queries, n_keys = (int(side.stop[-1]) for side in cells)
    ahead = min(prefix, n_keys) if causal else n_keys
    distances = np.arange(min(1 - ahead, 0), n_queries, dtype=np.float64)
    return 0.0 if bias is None else float(bias_at(bias, distances)[0].max())


def _weight_function(
    bias: PositionBias | None, shift: float, causal: bool, window: int | None
) -> WeightFunction:
    """Return W as a function of the query's position less the key's, at most 1."""

    def weight_at(distance: Floats) -> Floats:
        weight = np.ones(distance.shape)
        if bias is not None:
            weight = np.exp(np.minimum(bias_at(bias, distance)[0] - shift, 0.0))
        if causal:
            weight = np.where(distance >= 0, weight, 0.0)
            return weight if window is None else np.where(distance < window, weight, 0.0)
        return weight if window is None else np.where(np.abs(distance) <= window, weight, 0.0)

    return weight_at


def _pair_means(weight_at: WeightFunction, cells: list[Subcells], power: int) -> Floats:
    r"""Return (query subcells, key subcells) the means of W^power over their pairs of tokens.

    From second sums :math:`S_t = \sum_{r \le t} \sum_{q < r} W_q`, which is exact. Subcells of one
    token are evaluated directly: differences of sums lose what is far below the largest.
    """
    queries, keys = cells
    n_keys, n_queries = int(keys.stop[-1]), int(queries.stop[-1])
    distances = np.arange(1 - n_keys, n_queries, dtype=np.float64)
    twice_summed = np.concatenate([[0.0, 0.0], np.cumsum(np.cumsum(weight_at(distances) ** power))])

    def at(query: Tokens, key: Tokens) -> Floats:
        return np.asarray(twice_summed[np.subtract.outer(query, key) + n_keys])

    sums = at(queries.stop, keys.start) - at(queries.start, keys.start)
    sums += at(queries.start, keys.stop) - at(queries.stop, keys.stop)
    means = np.maximum(sums, 0.0) / np.outer(queries.sizes, keys.sizes)
    single = np.outer(queries.sizes == 1, keys.sizes == 1)
    exact = weight_at(np.subtract.outer(queries.start, keys.start)) ** power
    return np.asarray(np.where(single, exact, means))


def _prefix_means(
    masked: WeightFunction,
    unmasked: WeightFunction,
    prefix: int,
    cells: list[Subcells],
    power: int,
) -> Floats:
    """Return the means of `_pair_means` where every query sees the keys within the prefix."""
    keys = cells[1]
    inside = np.clip((prefix - keys.start) / keys.sizes, 0.0, 1.0)
    everywhere = _pair_means(unmasked, cells, power)
    return everywhere * inside + _pair_means(masked, cells, power) * (1 - inside)
