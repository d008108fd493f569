r"""Biases on attention scores by distance: ALiBi's, and the grouping of heads with similar ones.

ALiBi subtracts :math:`m_h |i-j|`, with slopes :math:`m_h` that fall geometrically over the heads.
A bias of any form is stored as points on its curve over distance (`dslm.spec.PositionBias`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dslm.spec import Floats, PositionBias

LINE = 256.0  # past keys over which a bias given by a straight line is evaluated
MOST_GROUPS = 5  # groups of heads that a prediction distinguishes; a layer's cost is linear in it


def alibi(slopes: Sequence[float]) -> PositionBias:
    r"""Return ALiBi's bias :math:`-m_h |i-j|`.

    Args:
        slopes: (heads,) the :math:`m_h`, per token of distance.

    Source: Press et al., arXiv 2108.12409.
    """
    values = tuple((-float(m), 0.0, -float(m)) for m in slopes)
    return PositionBias((-1, 0, 1), values, (1,) * len(values))


def alibi_slopes(n_heads: int) -> tuple[float, ...]:
    r"""Return ALiBi's slopes :math:`2^{-8h/n}`, h from 1 to n heads.

    Where n is no power of two, the slopes of the next lower power come first, followed by every
    other slope of twice that power.

    Source: Press et al., arXiv 2108.12409, and the code published with it.
    """
    low = 2 ** int(np.log2(n_heads))
    slopes = [2.0 ** (-8 * h / low) for h in range(1, low + 1)]
    slopes += [2.0 ** (-4 * h / low) for h in range(1, 2 * low, 2)][: n_heads - low]
    return tuple(slopes)


def bias_at(bias: PositionBias, distance: Floats) -> Floats:
    """Return (groups, *distance.shape) the bias at those distances, in tokens."""
    x = np.array(bias.distances, dtype=np.float64)
    at = np.asarray(distance, dtype=np.float64)
    return np.stack([_on_line(at, x, np.array(row)) for row in bias.values])


def _on_line(at: Floats, x: Floats, y: Floats) -> Floats:
    bias = np.interp(at, x, y)
    if len(x) > 1:
        first, last = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
        bias = np.where(at < x[0], y[0] + (at - x[0]) * first, bias)
        bias = np.where(at > x[-1], y[-1] + (at - x[-1]) * last, bias)
    return np.asarray(bias)


@lru_cache(maxsize=16)
def few_groups(bias: PositionBias, most: int = MOST_GROUPS) -> PositionBias:
    """Return `bias` in at most `most` groups of heads; a group has its heads' mean.

    Heads are ordered by the number of keys over which they spread, and neighbours joined.
    """
    if len(bias.heads) <= most:
        return bias
    order = np.argsort(_spread(bias), kind="stable")
    joined = np.array_split(order, most)
    heads, values = np.array(bias.heads), np.array(bias.values)
    means = [np.average(values[group], axis=0, weights=heads[group]) for group in joined]
    return PositionBias(
        bias.distances,
        tuple(tuple(row.tolist()) for row in means),
        tuple(int(heads[group].sum()) for group in joined),
    )


def reach(bias: PositionBias) -> int:
    """Return over how many past keys the narrowest head spreads, at least 1."""
    return max(int(_spread(bias).min()), 1)


def _spread(bias: PositionBias) -> Floats:
    """Return (groups,) over how many past keys a bias spreads, of those it has points for.

    The count is the inverse participation ratio of the softmax weights that the bias alone makes.
    """
    last = bias.distances[-1]
    bias_by_distance = bias_at(bias, np.arange(last + 1.0 if last > 1 else LINE))
    weights = np.exp(bias_by_distance - bias_by_distance.max(axis=1, keepdims=True))
    return np.asarray(weights.sum(axis=1) ** 2 / np.square(weights).sum(axis=1))
