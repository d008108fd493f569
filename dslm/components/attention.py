"""Softmax and single-head attention without a mask: every token sees every token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dslm.components.moments import (
    GradMoments,
    Moments,
    require_at_least,
    require_probability,
    require_zero_mean,
)
from dslm.duals.partition import Concentration, concentration
from dslm.spec import Floats


def softmax(logits: Moments, *, seq_len: int) -> Moments:
    r"""Moments of softmax weights over L logits of variance s and mutual correlation r_d.

    .. math:: \sigma^2 = E[a^2] - 1/L^2

    a being the weights of L independent logits of variance :math:`(1-r_d)s`, as the part that all
    logits share cancels. For large L this is :math:`(e^{(1-r_d)s} - 1)/L^2`. `corr_l` is that of
    two weights of a row: they add up to 1, so it is :math:`-1/(L-1)`.

    Args:
        logits: moments over one row of logits; `corr_l` is that of two logits of the row.
        seq_len: L, the logits of a row.

    Raises:
        AssumptionError: if `seq_len` < 2.

    Source: arXiv 2403.09635, Table 1 (softmax) for large L; for any L `dslm.duals.partition`.
    """
    overlaps = _concentration(logits, seq_len)
    var = max(float(overlaps.self_overlap) - 1 / seq_len, 0.0) / seq_len
    return Moments(mean=1 / seq_len, var=var, corr_l=-1 / (seq_len - 1))


def softmax_backward(g: GradMoments, logits: Moments, *, seq_len: int) -> GradMoments:
    r"""Gradient at the logits, for independent gradients at the weights.

    .. math:: \sigma_g^2\,E\Big[\textstyle\sum_j a_j^2 - 2\sum_j a_j^3 +
        (\sum_j a_j^2)^2\Big]/L

    Raises:
        AssumptionError: if `seq_len` < 2.

    Source: arXiv 2403.09635, Table 1 (softmax), for the first term; the others derived here.
    """
    slope = float(_concentration(logits, seq_len).slope)
    return GradMoments(var=g.var * slope / seq_len, corr_l=-1 / (seq_len - 1))


def _concentration(logits: Moments, seq_len: int) -> Concentration:
    require_at_least("seq_len", seq_len, 2)
    variance = np.array((1 - logits.corr_l) * logits.var)
    return concentration(variance, np.array(float(seq_len)))


@dataclass(frozen=True, slots=True)
class AttentionHead:
    """One attention head: sizes, weight variances and dropout on the weights.

    Attributes:
        seq_len: L, the tokens that each token sees.
        d_model, d_key, d_value: features of the input, of queries and keys, and of values.
        query_var, key_var, value_var: variances of the projections' entries.
        p_drop: dropout on the attention weights.

    Raises:
        AssumptionError: if a size, variance or probability is impossible.
    """

    seq_len: int
    d_model: int
    d_key: int
    d_value: int
    query_var: float
    key_var: float
    value_var: float
    p_drop: float = 0.0

    def __post_init__(self) -> None:
        require_probability(self.p_drop)
        require_at_least("seq_len", self.seq_len, 2)
        for name in ("d_model", "d_key", "d_value"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("query_var", "key_var", "value_var"):
            require_at_least(name, getattr(self, name), 0)

    def score_var(self, x: Moments) -> float:
        """Return the variance of q·k/√d_key."""
        return self.d_model**2 * self.query_var * self.key_var * x.var**2

    def weights(self, x: Moments) -> Concentration:
        r"""Return the overlaps of the weights of one query, and of two, on tokens like `x`.

        A query's length scatters, as it has `d_key` random features of a token of `d_model`.
        """
        spread = np.array((1 - x.corr_l) * self.score_var(x))
        features = 1 / (1 / self.d_key + 1 / self.d_model)
        return concentration(spread, np.array(float(self.seq_len)), features)


def attention(x: Moments, head: AttentionHead) -> Moments:
    r"""Moments of one head's output, before the output projection.

    .. math:: \sigma_{out}^2 = d\sigma_v^2\sigma^2\left(r(1 - D) + \frac{D}{1-p}\right), \quad
        cov_{out} = d\sigma_v^2\sigma^2(r(1 - D') + D')

    D is the self-overlap of one query's weights, D' the overlap of two queries' weights. Of tokens
    with d random features a query prefers those along its direction, and these add up coherently
    to a further

    .. math:: d\sigma_v^2\sigma^2\,(1-r)(1-D)^2\,c/d

    with c = s for the variance and c = rs for the covariance, s being the variance of one query's
    scores.

    Args:
        x: moments of the (batch, seq, d_model) input.
        head: sizes and weight variances.

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: arXiv 2403.09635, Table 1 (attention); D, D' from `dslm.duals.partition`.
    """
    require_zero_mean(x, "attention")
    gain = head.d_model * head.value_var * x.var
    r, weights = x.corr_l, head.weights(x)
    self_overlap, overlap = (
        float(weights.self_overlap),
        _over_correlations(weights.overlap, r, head, weights),
    )
    along = (1 - r) * (1 - self_overlap) ** 2 * float(weights.variance) / head.d_model
    var = gain * (r * (1 - self_overlap) + self_overlap / (1 - head.p_drop) + along)
    cov = gain * (r * (1 - overlap) + overlap + r * along)
    return Moments(mean=0.0, var=var, corr_l=min(cov / var, 1.0) if var > 0 else 0.0)


def attention_backward(g: GradMoments, x: Moments, head: AttentionHead) -> GradMoments:
    r"""Gradient at one head's input, through the values and through the scores.

    Over the gain :math:`d_v\sigma_v^2\sigma_g^2`, the values contribute

    .. math:: \frac{D}{1-p} + (L-1)r_g D', \quad \frac{1-D}{L-1} + r_g(1 - D')

    to variance and covariance. Let s be the score variance, :math:`\dot D, \dot D'` the
    derivatives of D and D' by the scores' covariance, and :math:`\kappa = 1/(1-p) - r`. Queries
    and keys then contribute

    .. math:: s\left((1-r)\kappa\dot D + k\right), \quad
        s\left((1-r)^2 r_g \dot D' - \frac{k}{L-1}\right), \quad
        k = \kappa\dot D + (L-1) r_g r (1-r)\dot D'

    where the last term is negative because a row of score gradients
    :math:`a_{ij}(e_{ij} - \bar e_i)` adds up to 0. Values and keys are made of the same d
    features, so the queries also get :math:`s(1-r)^2(1-D)^2/d`, times :math:`r_g` in the
    covariance. D' and its derivative are means over a correlation that scatters around r by
    :math:`(1-r^2)\sqrt{1/d + 1/d_k}`. The reference leaves the scores' path out.

    Args:
        g: moments of the gradient at the head's output.
        x: moments of the (batch, seq, d_model) input.
        head: sizes and weight variances.

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: arXiv 2403.09635, Table 1 (attention), value path; score path derived here.
    """
    require_zero_mean(x, "attention")
    n, r, weights = head.seq_len, x.corr_l, head.weights(x)
    gain = head.d_value * head.value_var * g.var
    self_overlap, overlap = (
        float(weights.self_overlap),
        _over_correlations(weights.overlap, r, head, weights),
    )
    values = self_overlap / (1 - head.p_drop) + (n - 1) * g.corr_l * overlap
    queries, queries_cov, keys = _through_scores(g, x, head, weights)
    var = gain * (values + queries + keys)
    cov = gain * ((1 - self_overlap) / (n - 1) + g.corr_l * (1 - overlap))
    cov += gain * (queries_cov - keys / (n - 1))
    corr_l = cov / var if var > 0 else 0.0
    return GradMoments(var=var, corr_l=min(max(corr_l, -1.0), 1.0))


def _through_scores(
    g: GradMoments, x: Moments, head: AttentionHead, weights: Concentration
) -> tuple[float, float, float]:
    """Return the queries' variance and covariance and the keys' variance, over the gain."""
    n, r, s = head.seq_len, x.corr_l, head.score_var(x)
    slope, pair_slope = (
        float(weights.slope),
        _over_correlations(weights.overlap_slope, r, head, weights),
    )
    pull = _over_correlations(lambda c: c * weights.overlap_slope(c), r, head, weights)
    kappa = 1 / (1 - head.p_drop) - r
    along = (1 - r) ** 2 * (1 - float(weights.self_overlap)) ** 2 / head.d_model
    keys = kappa * slope + (n - 1) * g.corr_l * (1 - r) * pull / float(weights.variance)
    queries = (1 - r) * kappa * slope + along
    return s * queries, s * g.corr_l * ((1 - r) ** 2 * pair_slope + along), s * keys


def _over_correlations(
    function: Callable[[Floats], Floats], r: float, head: AttentionHead, weights: Concentration
) -> float:
    """Mean of a function of two queries' score covariance over their random correlation."""
    # three Gauss-Hermite nodes: exact for polynomials of up to fifth degree
    scatter = (1 - r**2) * (1 / head.d_model + 1 / head.d_key) ** 0.5
    nodes = np.clip(r + scatter * np.sqrt(3) * np.array([-1.0, 0.0, 1.0]), -1.0, 1.0)
    return float(function(nodes * weights.variance) @ np.array([1, 4, 1])) / 6
