"""Softmax and single-head attention, every token seeing every token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from dslm.components.moments import (
    GradMoments,
    Moments,
    require_at_least,
    require_probability,
    require_zero_mean,
)
from dslm.duals.hermite import gaussian_mean
from dslm.duals.pointwise import sigmoid
from dslm.spec import Floats

BISECTIONS = 50


def softmax(logits: Moments, *, seq_len: int) -> Moments:
    r"""Moments of softmax weights over L logits of variance s and mutual correlation r_d.

    A weight is the logistic function of its logit less the logarithm of the sum of the others'
    exponentials. That sum is taken as log-normal, which makes the difference a Gaussian t of
    variance

    .. math:: (1-r_d)s + \ln\left(1 + \frac{E-1}{L-1}\right), \quad E = e^{(1-r_d)s}

    whose mean follows from :math:`E[a] = 1/L`; then :math:`\sigma^2 = E[a^2] - 1/L^2`. For large
    L this is :math:`(E - 1)/L^2`. `corr_l` is between two weights of a row, which add up to 1.

    Raises:
        AssumptionError: if `seq_len` < 2.

    Source: arXiv 2403.09635, Table 1 (softmax) for large L; the finite form derived here. Within
    6 % of simulation for s up to 3 and L from 50.
    """
    square, _ = _weight_powers(logits, seq_len)
    var = max(square - 1 / seq_len**2, 0.0)
    return Moments(mean=1 / seq_len, var=var, corr_l=-1 / (seq_len - 1))


def softmax_backward(g: GradMoments, logits: Moments, *, seq_len: int) -> GradMoments:
    r"""Gradient of the logits, for gradients of the weights that are independent.

    .. math:: \sigma_g^2\left(E[a^2] - 2E[a^3] + L E[a^2]^2\right)

    Raises:
        AssumptionError: if `seq_len` < 2.

    Source: arXiv 2403.09635, Table 1 (softmax), for the first term; the others derived here.
    """
    square, cube = _weight_powers(logits, seq_len)
    var = g.var * max(square - 2 * cube + seq_len * square**2, 0.0)
    return GradMoments(var=var, corr_l=-1 / (seq_len - 1))


def _weight_powers(logits: Moments, seq_len: int) -> tuple[float, float]:
    """Return E[a²] and E[a³]."""
    require_at_least("seq_len", seq_len, 2)
    s = (1 - logits.corr_l) * logits.var
    spread = math.sqrt(s + math.log1p(math.expm1(min(s, 700.0)) / (seq_len - 1)))
    low, high = -math.log(seq_len - 1) - 20 - 10 * spread**2, 10.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        mean = gaussian_mean(partial(_shifted, middle, 1), spread**2)
        low, high = (middle, high) if mean < 1 / seq_len else (low, middle)
    square = gaussian_mean(partial(_shifted, high, 2), spread**2)
    return square, gaussian_mean(partial(_shifted, high, 3), spread**2)


def _shifted(shift: float, power: int, u: Floats) -> Floats:
    return np.asarray(sigmoid(u + shift) ** power)


@dataclass(frozen=True, slots=True)
class Head:
    """One attention head: sizes, weight variances and dropout on the weights."""

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

    def score_var(self, x: Moments) -> float:
        """Return the variance of q·k/√d_key."""
        return self.d_model**2 * self.query_var * self.key_var * x.var**2

    def own_weight(self, x: Moments) -> float:
        """Return D = E[sum_j a_ij²]: the inverse of the number of tokens attended to."""
        spread = (1 - x.corr_l) * self.score_var(x)
        return self.seq_len * _weight_powers(Moments(0.0, spread, 0.0), self.seq_len)[0]

    def shared_weight(self, x: Moments) -> float:
        """Return D' = E[sum_j a_ij a_i'j] for two different queries."""
        pull = math.exp(min(x.corr_l * (1 - x.corr_l) * self.score_var(x), 700.0))
        return pull / (pull + self.seq_len - 1)


def attention(x: Moments, head: Head) -> Moments:
    r"""Moments of one head's output, before the output projection.

    .. math:: \sigma_{out}^2 = d\sigma_v^2\sigma^2\left(r(1 - D) + \frac{D}{1-p}\right), \quad
        cov_{out} = d\sigma_v^2\sigma^2(r(1 - D') + D')

    with D and D' the chance that one query, or two, meet the same token (`Head`).

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: arXiv 2403.09635, Table 1 (attention); D, D' derived here from log-normal weights.
    """
    require_zero_mean(x, "attention")
    gain = head.d_model * head.value_var * x.var
    own, shared = head.own_weight(x), head.shared_weight(x)
    r = x.corr_l
    var = gain * (r * (1 - own) + own / (1 - head.p_drop))
    cov = gain * (r * (1 - shared) + shared)
    return Moments(mean=0.0, var=var, corr_l=min(cov / var, 1.0) if var > 0 else 0.0)


def attention_backward(g: GradMoments, x: Moments, head: Head) -> GradMoments:
    r"""Gradient of one head's input: through the values and through the scores.

    Values give variance :math:`d_v\sigma_v^2\sigma_g^2(D/(1-p) + (L-1)r_g D')` and covariance
    :math:`d_v\sigma_v^2\sigma_g^2(\frac{1-D}{L-1} + r_g(1 - D'))`. With s the score variance,
    queries and keys together add to the variance

    .. math:: d_v\sigma_v^2\sigma_g^2\, s\left((1-r)^2 \frac{D}{1-p} +
        (1-r)\left(\frac{D}{1-p} + (L-1) r_g r D'\right)\right)

    for score gradients :math:`a_{ij}(e_{ij} - \bar e_i)`; the reference leaves this out.

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: arXiv 2403.09635, Table 1 (attention), value path; score path derived here.
    """
    require_zero_mean(x, "attention")
    n, r, s = head.seq_len, x.corr_l, head.score_var(x)
    own, shared = head.own_weight(x), head.shared_weight(x)
    gain = head.d_value * head.value_var * g.var
    kept = own / (1 - head.p_drop)
    values = kept + (n - 1) * g.corr_l * shared
    queries = (1 - r) ** 2 * kept
    keys = (1 - r) * (kept + (n - 1) * g.corr_l * r * shared)
    var = gain * (values + s * (queries + keys))
    cov = gain * ((1 - own) / (n - 1) + g.corr_l * (1 - shared))
    cov += gain * s * (1 - r) ** 2 * own * g.corr_l
    return GradMoments(var=var, corr_l=min(cov / var, 1.0) if var > 0 else 0.0)
