"""What queries see of the keys, for every group of heads that see alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dslm.kernels.visibility import Visibility, visibility
from dslm.kernels.weighting import Runs, Weighting, runs_of, weighting
from dslm.position_bias import bias_at, few_groups
from dslm.spec import Attention, Floats, Kernel, PositionBias

Sight = Visibility | Weighting


def sights(x: Kernel, memory: Kernel, attention: Attention) -> list[tuple[float, Sight]]:
    """Return (share of the heads, what they see); the shares add up to 1."""
    bias = attention.position_bias
    if bias is None:
        return [(1.0, sight_without_bias(x, memory, attention))]
    bias = few_groups(bias)
    return [
        (n / attention.n_heads, _weighting(x, memory, attention, replace(bias, values=(row,))))
        for n, row in zip(bias.heads, bias.values, strict=True)
    ]


def sight_without_bias(x: Kernel, memory: Kernel, attention: Attention) -> Sight:
    """Return what a query sees, each key counted alike."""
    if attention.prefix == 0:
        return visibility(x, memory, attention)
    return _weighting(x, memory, attention, None)


def _weighting(
    x: Kernel, memory: Kernel, attention: Attention, bias: PositionBias | None
) -> Weighting:
    cells = tuple(k.cell_sizes.astype(np.int64).tobytes() for k in (x, memory))
    masks = (attention.causal, attention.window, attention.prefix)
    return _cached(*cells, masks, bias)


@lru_cache(maxsize=16)  # layers mostly see alike
def _cached(
    queries: bytes,
    keys: bytes,
    masks: tuple[bool, int | None, int],
    bias: PositionBias | None,
) -> Weighting:
    runs = [runs_of(np.frombuffer(cells, dtype=np.int64)) for cells in (queries, keys)]
    causal, window, prefix = masks
    shift = _largest(bias, causal, prefix, runs)
    masked, whole = (_factor(bias, shift, c, window) for c in (causal, False))
    mean, square = (
        _mixed(masked, whole, prefix, runs, power) if prefix else _means(masked, runs, power)
        for power in (1, 2)
    )
    return weighting(mean, square, *runs)


Tokens = NDArray[np.int64]
Factor = Callable[[Floats], Floats]


def _largest(bias: PositionBias | None, causal: bool, prefix: int, runs: list[Runs]) -> float:
    """Return the largest bias at a distance that is seen."""
    ahead = min(prefix, int(runs[1].stop[-1])) if causal else int(runs[1].stop[-1])
    seen = np.arange(min(1 - ahead, 0), runs[0].stop[-1])
    return 0.0 if bias is None else float(bias_at(bias, seen)[0].max())


def _factor(bias: PositionBias | None, shift: float, causal: bool, window: int | None) -> Factor:
    """Return W as a function of the query's position less the key's, at most 1."""

    def factor(distance: Floats) -> Floats:
        weight = np.ones(distance.shape)
        if bias is not None:
            weight = np.exp(np.minimum(bias_at(bias, distance)[0] - shift, 0.0))
        if causal:
            weight = np.where(distance >= 0, weight, 0.0)
            return weight if window is None else np.where(distance < window, weight, 0.0)
        return weight if window is None else np.where(np.abs(distance) <= window, weight, 0.0)

    return factor


def _means(factor: Factor, runs: list[Runs], power: int) -> Floats:
    r"""Return (query runs, key runs) the means of W^power over their pairs of tokens.

    From second sums :math:`S_t = \sum_{r \le t} \sum_{q < r} W_q`: exact, and for runs of one token
    taken directly, as differences lose what is far below the largest.
    """
    queries, keys = runs
    n_keys, n_queries = int(keys.stop[-1]), int(queries.stop[-1])
    distances = np.arange(1 - n_keys, n_queries, dtype=np.float64)
    twice = np.concatenate([[0.0, 0.0], np.cumsum(np.cumsum(factor(distances) ** power))])

    def at(query: Tokens, key: Tokens) -> Floats:
        return np.asarray(twice[np.subtract.outer(query, key) + n_keys])

    sums = at(queries.stop, keys.start) - at(queries.start, keys.start)
    sums += at(queries.start, keys.stop) - at(queries.stop, keys.stop)
    means = np.maximum(sums, 0.0) / np.outer(queries.sizes, keys.sizes)
    single = np.outer(queries.sizes == 1, keys.sizes == 1)
    exact = factor(np.subtract.outer(queries.start, keys.start)) ** power
    return np.asarray(np.where(single, exact, means))


def _mixed(masked: Factor, whole: Factor, prefix: int, runs: list[Runs], power: int) -> Floats:
    """As `_means`, keys within the prefix being seen by all."""
    keys = runs[1]
    inside = np.clip((prefix - keys.start) / keys.sizes, 0.0, 1.0)
    seen_by_all = _means(whole, runs, power)
    return seen_by_all * inside + _means(masked, runs, power) * (1 - inside)
