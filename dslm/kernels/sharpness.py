r"""The sharpness of softmax weights, whose denominators fluctuate with their numerators.

The kernel recursion weighs keys j, k of queries i, i' by :math:`e^{Q_{ii'} T_{jk}}`, as if the
denominators were constant. With hot scores, a large numerator enlarges its denominator. Here the
keys that a query sees are represented by n keys of independent scores of variance s, whose weights
have exact moments (`dslm.duals.partition`). :math:`Q_{ii'}` is then lowered until its weights have
the overlap that these have.

Source: derived here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dslm.duals.partition import Concentration, concentration
from dslm.kernels.grid import dense, multiply
from dslm.masks.head_masks import Mask
from dslm.spec import Floats, Kernel

COLD = 1e-4  # share of the variance below which the covariance's first-order limit is used


@dataclass(frozen=True, slots=True)
class Sharpness:
    """The overlaps of the weights of every two queries, and their scores' covariances.

    Attributes:
        queries: the kernel Q.
        diagonal, pairs: overlaps of a query with itself, (cells,), and of two, (cells, cells).
        covariance, pair_covariance: c, the covariance of their scores, of the same shapes.
        mask: the keys that each query sees.
    """

    queries: Kernel
    diagonal: Concentration
    pairs: Concentration
    covariance: Floats
    pair_covariance: Floats
    mask: Mask

    def tempered(self) -> Kernel:
        r"""Return Q scaled such that :math:`e^c/(e^c + n - 1)` is the overlap of two queries."""
        diagonal = self.queries.diagonal * _temper(self.diagonal, self.covariance)
        off_diagonal = self.queries.off_diagonal * _temper(self.pairs, self.pair_covariance)
        return replace(self.queries, diagonal=diagonal, off_diagonal=off_diagonal)

    def coherence(self, d_model: int) -> Kernel:
        r"""Return the energy of the coherent sum of keys, :math:`(1-D_i)(1-D_{i'})/d`.

        Inner products of tokens with d random features scatter around their mean by
        :math:`1/\sqrt d`, and the weights prefer tokens along the query, which add up coherently.
        The energy is per unit of score covariance and of the values' spread; independent tokens
        have D in its place.

        Source: derived here, by Stein's lemma; exact to first order in 1/d for Gaussian features.
        """
        left = 1 - np.minimum(self.diagonal.self_overlap, 1.0)
        off_diagonal = np.outer(left, left) / d_model
        return replace(
            self.queries, diagonal=left**2 / d_model, off_diagonal=off_diagonal, mean=0.0
        )

    def covariances(self) -> Kernel:
        """Return c as a kernel over queries, clipped to the variances for which D is tabulated.

        Beyond them weights are one-hot, and (1-D)²c no longer changes.
        """
        most = self.pairs.variance
        return replace(
            self.queries,
            diagonal=np.minimum(self.covariance, self.diagonal.variance),
            off_diagonal=np.clip(self.pair_covariance, -most, most),
            mean=0.0,
        )

    def score_gradients(self) -> Kernel:
        """Return the energy of score gradients over that with uniform weights."""
        diagonal = _over_uniform(self.diagonal, self.covariance)
        off_diagonal = _over_uniform(self.pairs, self.pair_covariance)
        return replace(self.queries, diagonal=diagonal, off_diagonal=off_diagonal, mean=0.0)


def sharpness(queries: Kernel, keys: Kernel, mask: Mask, d_head: float) -> Sharpness:
    r"""Return the sharpness of weights on keys of kernel T.

    With :math:`\tilde T` the kernel T less its row and column means over the keys mask, and
    :math:`\Delta = tr\,\tilde T / N`, the number of keys is :math:`n = 1 + \Delta^2 N^2 /
    \|\tilde T\|^2`: N where all differ, the number of distinct ones where keys repeat. For two
    queries it is that of the one that sees more, whose keys under a causal mask include the
    other's.
    """
    spread, count = _spread_and_count(keys, mask)
    unit = spread * count / (count - 1)
    diagonal = concentration(queries.diagonal * unit, count, d_head)
    # the index of the query that sees more keys, for every two
    wider = np.where(count[:, None] >= count[None, :], *np.indices(queries.off_diagonal.shape))
    variance = np.sqrt(np.outer(diagonal.variance, diagonal.variance))
    pairs = Concentration(
        variance, diagonal.count[wider], diagonal.self_overlap[wider], diagonal.slope[wider]
    )
    pair_covariance = queries.off_diagonal * np.sqrt(np.outer(unit, unit))
    return Sharpness(queries, diagonal, pairs, queries.diagonal * unit, pair_covariance, mask)


def _spread_and_count(keys: Kernel, mask: Mask) -> tuple[Floats, Floats]:
    n = mask.keys_per_query
    matrix = dense(keys)
    averages = mask.keys(matrix, 1) / n[None, :]
    mean = np.diagonal(mask.keys(averages, 0)) / n
    rows = np.diagonal(mask.keys(averages**2, 0)) / n - mean**2
    squares = mask.keys(mask.keys(dense(multiply(keys, keys)), 0), 1)
    energy = np.diagonal(squares) / n**2 - mean**2 - 2 * np.maximum(rows, 0.0)
    spread = np.maximum(mask.keys(keys.diagonal) / n - mean, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        count = 1 + np.nan_to_num(spread**2 / energy, nan=np.inf, posinf=np.inf)
    most = np.maximum(n, 1.1)  # where the table of overlaps begins
    return spread, np.clip(np.where(energy > 0, count, most), 1.1, most)


def spread_over_keys(kernel: Kernel, mask: Mask) -> Floats:
    """Return (query cells,) the mean diagonal less the mean over all pairs of keys seen."""
    n = mask.keys_per_query
    mean = np.diagonal(mask.keys(mask.keys(dense(kernel), 0), 1)) / n**2
    return np.asarray(np.maximum(mask.keys(kernel.diagonal) / n - mean, 0.0))


def rooted(spread: Floats) -> Kernel:
    """Return the kernel of geometric means of (cells,) values."""
    return Kernel(spread, np.sqrt(np.outer(spread, spread)), np.ones(len(spread), dtype=np.int64))


def _temper(weights: Concentration, covariance: Floats) -> Floats:
    n = weights.count
    meeting = np.minimum(weights.overlap(covariance), 1 - 1e-12)
    limit = ((1 - weights.self_overlap) * n / (n - 1)) ** 2
    # the quotient below is 0/0 for cold scores
    cold = np.abs(covariance) < COLD * np.maximum(weights.variance, COLD)
    ratio = np.log(meeting * (n - 1) / (1 - meeting)) / np.where(cold, 1.0, covariance)
    return np.asarray(np.where(cold, limit, ratio))


def _over_uniform(weights: Concentration, covariance: Floats) -> Floats:
    return weights.overlap_slope(covariance) * weights.count**2 / (weights.count - 1)
