"""A router of experts: what two tokens' gates have in common, from the moments of its scores."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from dslm.kernels.grid import map_pairs, mean_diagonal
from dslm.spec import Experts, Floats, Kernel

ENTRIES = 1 << 19  # of scores that are drawn for a table
MIN_DRAWS = 2048
ANGLES = 9  # of two tokens' scores, from alike to independent
STEP = 1.05  # tables are made for score variances this factor apart


def gate_products(x: Kernel, experts: Experts) -> Kernel:
    r"""Return :math:`E \sum_e w_e(x_i) w_e(x_j)`, by which an expert's output kernel is multiplied.

    The scores of a random router on tokens of correlation :math:`\rho` are Gaussian, of variance
    :math:`s = d\,E[w_r^2] K_{ii} + E[b_r^2]` and correlation :math:`\rho`, independent between
    experts. At :math:`\rho = 1` the sum is :math:`E \sum w^2`, at 0 about :math:`(E \sum w)^2/E`
    of E experts.

    Source: derived here; the expectation over scores by draws of a fixed seed, within 0.5 %.
    """
    return _interpolated(x, experts, 0)


def gate_slopes(x: Kernel, experts: Experts) -> Kernel:
    r"""Return :math:`E \sum_{ee'} J_{ee'}(x_i) J_{ee'}(x_j)`, with :math:`J_{ee'}` the slope of
    gate e over score e' where the choice of experts stays the same.

    Source: as `gate_products`.
    """
    return _interpolated(x, experts, 1)


def _interpolated(x: Kernel, experts: Experts, index: int) -> Kernel:
    router = experts.router
    unit = router.d_in * router.weight_var
    variance = unit * mean_diagonal(x) + router.bias_var
    if not math.isfinite(variance):
        return map_pairs(x, lambda a, b, c: np.nan * (a + b + c))
    angles, *tables = _table(_rounded(variance), _shape(experts))
    table = np.array(tables[index])

    def at(a: Floats, b: Floats, c: Floats) -> Floats:
        size = np.sqrt(np.maximum((unit * a + router.bias_var) * (unit * b + router.bias_var), 0))
        shared = (unit * c + router.bias_var) / np.where(size > 0, size, 1.0)
        angle = np.arccos(np.clip(np.where(size > 0, shared, 1.0), 0.0, 1.0))
        values: Floats = np.interp(angle, angles, table)
        return values

    return map_pairs(x, at)


Shape = tuple[int, int, str, bool, float, int, int]


def _shape(experts: Experts) -> Shape:
    return (
        experts.router.d_out,
        experts.top_k,
        experts.gate,
        experts.normalised,
        experts.scale,
        experts.groups,
        experts.top_groups,
    )


def _rounded(variance: float) -> float:
    if variance <= 0:
        return 0.0
    return STEP ** round(math.log(variance) / math.log(STEP))


@lru_cache(maxsize=64)
def _table(variance: float, shape: Shape) -> tuple[Floats, Floats, Floats]:
    """Angles from 0 to π/2, and at each the mean product of gates and of their slopes."""
    n_experts, scale = shape[0], shape[4]
    n = max(MIN_DRAWS, ENTRIES // n_experts)
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, n, n_experts))
    std = math.sqrt(variance)
    here, slopes_here = _gates(std * first, shape)
    angles = np.linspace(0.0, math.pi / 2, ANGLES)
    products, slopes = np.empty(ANGLES), np.empty(ANGLES)
    for index, angle in enumerate(angles):
        scores = std * (math.cos(angle) * first + math.sin(angle) * second)
        there, slopes_there = _gates(scores, shape)
        products[index] = np.einsum("te,te->", here, there) / n
        slopes[index] = slopes_here.dot(slopes_there) / n
    return angles, scale**2 * products, scale**2 * slopes


class _Slopes:
    r"""J of n tokens as :math:`\mathrm{diag}(p) - q r^T`, each of p, q and r (n, experts)."""

    def __init__(self, p: Floats, q: Floats, r: Floats) -> None:
        self._p, self._q, self._r = p, q, r

    def dot(self, other: _Slopes) -> float:
        """The sum over tokens and entries of this J times another."""
        p, q, r = self._p, self._q, self._r
        mixed = p * other._q * other._r + q * r * other._p
        outer = (q * other._q).sum(1) * (r * other._r).sum(1)
        return float((p * other._p).sum() - mixed.sum() + outer.sum())


def _gates(scores: Floats, shape: Shape) -> tuple[Floats, _Slopes]:
    """Each token's gates, 0 for experts that it is not sent to, and their slopes, without scale."""
    _, top_k, gate, normalised = shape[:4]
    chosen = _chosen(scores, top_k, *shape[5:])
    if gate == "softmax":
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        raised = raised * chosen if normalised else raised
        share = raised / raised.sum(axis=1, keepdims=True)
        gates = share * chosen
        return gates, _Slopes(gates, gates, share)
    open_share = 1 / (1 + np.exp(-scores))
    slope = open_share * (1 - open_share) * chosen
    if not normalised:
        return open_share * chosen, _Slopes(slope, np.zeros_like(slope), slope)
    total = (open_share * chosen).sum(axis=1, keepdims=True)
    gates = open_share * chosen / total
    return gates, _Slopes(slope / total, gates, slope / total)


def _chosen(scores: Floats, top_k: int, groups: int, top_groups: int) -> Floats:
    """1 at the experts that each token is sent to; of the best groups alone where there are some.

    A group is as good as its two best experts together (DeepSeek-V3).
    """
    n, n_experts = scores.shape
    if top_groups < groups:
        grouped = scores.reshape(n, groups, -1)
        best = np.sort(grouped, axis=2)[:, :, -2:].sum(axis=2)
        allowed = _largest(best, top_groups)[:, :, None]
        scores = np.where(allowed > 0, grouped, -np.inf).reshape(n, n_experts)
    return _largest(scores, top_k)


def _largest(values: Floats, k: int) -> Floats:
    width = values.shape[1]
    if k >= width:
        return np.ones_like(values)
    chosen = np.zeros_like(values)
    np.put_along_axis(chosen, np.argpartition(values, width - k, axis=1)[:, width - k :], 1.0, 1)
    return chosen
