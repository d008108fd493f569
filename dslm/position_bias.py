r"""Biases on attention scores by distance: ALiBi's, and few heads that stand for many.

ALiBi subtracts :math:`m_h |i-j|`, with slopes :math:`m_h` that fall geometrically over the heads.
A bias of any form is stored as points on its curve over distance (`dslm.spec.PositionBias`).

A layer's cost is linear in the heads that are told apart. What attention does to a kernel is a
mean over heads. Where their biases are multiples of one curve, as ALiBi's are, that mean is an
integral over the logarithm of the slope, and a Gauss rule of three nodes takes it:

.. math:: \frac1n \sum_h f(\ln m_h) \approx \sum_{k=1}^3 w_k f(u_k)

exact where f is a polynomial of degree five. Other heads are joined in groups of similar ones.

Source: derived here. Bloom's 112 heads: variances within 0.1 % of those with every head, 12 layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dslm.spec import Floats, PositionBias

LINE = 256.0  # past keys over which a bias given by a straight line is evaluated
MOST_GROUPS = 5  # groups of heads that a prediction distinguishes
NODES = 3  # of the Gauss rule over slopes
ALIKE = 0.02  # mean square deviation of joined heads that changes moments by less than 0.1 %
PROPORTIONAL = 1e-3  # relative: how far a bias may be off a multiple of another
Indices = NDArray[np.int64]
HeadGroup = tuple[float, PositionBias]  # share of the heads, and the one bias that they have


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


def with_heads(bias: PositionBias, n_heads: int) -> PositionBias | None:
    """Return ALiBi's bias of another number of heads; None for what is no multiple of ALiBi's."""
    slopes, expected = _slopes(bias), np.array(alibi_slopes(sum(bias.heads)))
    if slopes is None:
        return None
    each_head = np.sort(np.repeat(slopes, bias.heads))
    if not np.allclose(each_head, np.sort(expected) / expected.max(), rtol=PROPORTIONAL):
        return None
    steepest = np.array(bias.values[int(np.argmax(slopes))])
    rows = np.outer(np.array(alibi_slopes(n_heads)) / expected.max(), steepest)
    return PositionBias(bias.distances, tuple(map(tuple, rows.tolist())), (1,) * n_heads)


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
def head_groups(bias: PositionBias) -> tuple[HeadGroup, ...]:
    """Return few groups of heads that attend on average as all of them; their shares add up to 1.

    Args:
        bias: that of every head.
    """
    slopes = _slopes(bias)
    if slopes is not None and _n_distinct(slopes) > NODES:
        points, weights = _gauss_rule(np.log(slopes), np.array(bias.heads, dtype=np.float64))
        steepest = np.array(bias.values[int(np.argmax(slopes))]) / slopes.max()
        rows = np.exp(points)[:, None] * steepest
    else:
        bias = few_groups(bias)
        rows, weights = np.array(bias.values), np.array(bias.heads) / sum(bias.heads)
    return tuple(
        (float(share), PositionBias(bias.distances, (tuple(row.tolist()),), (1,)))
        for share, row in zip(weights, rows, strict=True)
    )


def _slopes(bias: PositionBias) -> Floats | None:
    """Return (groups,) the factors on one common curve; None where the biases have no such form."""
    rows = bias_at(bias, np.array(bias.distances, dtype=np.float64))
    rows = rows - rows[:, [int(np.argmin(np.abs(bias.distances)))]]
    steepest = rows[np.argmax(np.abs(rows).max(axis=1))]
    size = float(steepest @ steepest)
    if size == 0:
        return None
    factors = rows @ steepest / size
    off = np.abs(rows - np.outer(factors, steepest)).max(axis=1)
    fits = (factors > 0).all() and (off <= PROPORTIONAL * factors * np.abs(steepest).max()).all()
    return np.asarray(factors) if fits else None


def _n_distinct(slopes: Floats) -> int:
    ordered = np.sort(slopes)
    return 1 + int(np.count_nonzero(ordered[1:] > (1 + PROPORTIONAL) * ordered[:-1]))


def _gauss_rule(points: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return nodes and weights of the Gauss rule for a sum over `points`, by Lanczos' recursion.

    The rule is exact for polynomials of degree 2·NODES - 1 where there are as many points.
    """
    basis = [np.sqrt(weights / weights.sum())]
    for _ in range(NODES - 1):
        direction = points * basis[-1]
        for _again in range(2):  # once leaves rounding errors of close points
            direction = direction - np.array(basis).T @ (np.array(basis) @ direction)
        basis.append(direction / np.linalg.norm(direction))
    vectors = np.array(basis)
    nodes, rotation = np.linalg.eigh(vectors @ (points * vectors).T)
    return nodes, rotation[0] ** 2


@lru_cache(maxsize=16)
def few_groups(bias: PositionBias, most: int = MOST_GROUPS) -> PositionBias:
    """Return `bias` in at most `most` groups of heads; a group has its heads' mean.

    Heads are ordered by the number of keys over which they spread, and neighbours joined. Heads
    whose biases hardly differ make fewer groups. Multiples of one curve are left as they are, as
    `head_groups` needs few nodes for them.
    """
    slopes = _slopes(bias)
    if slopes is not None and _n_distinct(slopes) > NODES <= most:
        return bias
    order = np.argsort(_spread(bias), kind="stable")
    for n_groups in range(1, most):
        joined, deviation = _joined(bias, np.array_split(order, n_groups))
        if deviation <= ALIKE:
            return joined
    if len(bias.heads) <= most:
        return bias
    return _joined(bias, np.array_split(order, most))[0]


def _joined(bias: PositionBias, parts: Sequence[Indices]) -> tuple[PositionBias, float]:
    """Return `bias` with the heads of each part joined, and their mean square deviation.

    It is that at the distance where it is largest.
    """
    heads, values = np.array(bias.heads), np.array(bias.values)
    means = [np.average(values[part], axis=0, weights=heads[part]) for part in parts]
    groups = tuple(int(heads[part].sum()) for part in parts)
    joined = PositionBias(bias.distances, tuple(tuple(row.tolist()) for row in means), groups)
    off = np.concatenate([values[part] - row for part, row in zip(parts, means, strict=True)])
    ordered = np.concatenate([heads[part] for part in parts])
    return joined, float((ordered @ off**2 / ordered.sum()).max())


@lru_cache(maxsize=16)  # asked of every block, and most have the same bias
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
