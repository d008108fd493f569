"""Softmax and mean cross-entropy over random logits."""

from __future__ import annotations

import numpy as np

from dslm.components.moments import GradMoments, Moments, require_at_least, require_zero_mean
from dslm.duals.partition import concentration
from dslm.errors import AssumptionError
from dslm.spec import Floats

UNIT = np.linspace(-8.0, 8.0, 401)  # quadrature nodes of a standard normal
N_LAPLACE = 800  # nodes in ln t; the integral is then within 1e-4


def cross_entropy(logits: Moments, *, n_classes: int) -> float:
    r"""Expected cross-entropy, in nats, of V Gaussian logits that are independent of the label.

    .. math:: E \ln Z = \int_0^\infty \frac{e^{-t} - E[e^{-t e^z}]^V}{t}\,dt, \quad
        Z = \textstyle\sum_v e^{z_v}

    This is close to :math:`\ln V + s/2 - (e^s - 1)/(2V)` for small variance s.

    Args:
        logits: moments of a (batch, seq, n_classes) activation.
        n_classes: V.

    Raises:
        AssumptionError: if the mean is not 0 or `n_classes` < 2.

    Source: derived here (Frullani's integral). Exact; the sum is within 1e-4.
    """
    require_zero_mean(logits, "cross_entropy")
    require_at_least("n_classes", n_classes, 2)
    return float(expected_log_sum(logits.var, n_classes))


def cross_entropy_backward(
    logits: Moments, *, n_classes: int, n_labels: float, same_label: float
) -> GradMoments:
    r"""Gradient at the logits of a mean cross-entropy over N labelled tokens.

    With :math:`\delta_i = p_i - e_{y_i}`, labels that are independent of the logits, and P the
    probability that two tokens' labels are equal,

    .. math:: \sigma_g^2 = \frac{D - 2/V + 1}{V N^2}, \quad
        cov_g = \frac{D'(c) - 2/V + P}{V N^2}

    Here :math:`D = E\sum_v p_v^2`, and :math:`D' = E\sum_v p_v p'_v` for logits of covariance c
    between tokens (`dslm.duals.partition`); both tend to 1/V as logits become small.

    Args:
        logits: moments of a (batch, seq, n_classes) activation.
        n_classes: V.
        n_labels: N, labels of the batch without the ignored ones.
        same_label: P; 1/V for uniform labels.

    Raises:
        AssumptionError: if a size is impossible, a mean is not 0 or `same_label` no probability.

    Source: derived here; D is exact, D' within 5 %.
    """
    require_zero_mean(logits, "cross_entropy_backward")
    require_at_least("n_classes", n_classes, 2)
    require_at_least("n_labels", n_labels, 1)
    if not 0 <= same_label <= 1:
        raise AssumptionError(f"same_label is {same_label}: give a probability")
    overlaps = concentration(np.array(logits.var), np.array(float(n_classes)))
    var = float(overlaps.self_overlap) - 2 / n_classes + 1
    cov = float(overlaps.overlap(np.array(logits.cov_l))) - 2 / n_classes + same_label
    return GradMoments(var=var / n_classes / n_labels**2, corr_l=min(cov / var, 1.0))


def expected_log_sum(
    variance: float, count: int, outlier_mean: float = 0.0, outlier_variance: float | None = None
) -> float:
    r"""Return :math:`E\ln\sum_v e^{z_v}` over `count` normal scores, one of them an outlier.

    The scores have mean 0 and this variance, the outlier its own mean and variance.

    Source: derived here, see `cross_entropy`.
    """
    # beyond these ends t e^z is negligible, or large, for every score within eight standard
    # deviations, and the integrand is 0
    reach = 8 * np.sqrt(variance) + 8
    low = -np.log(count) - reach - max(outlier_mean, 0.0) - 8
    log_t = np.linspace(low, reach + 4 - min(outlier_mean, 0.0), N_LAPLACE)
    log_others = _log_laplace(log_t, variance)
    spread = variance if outlier_variance is None else outlier_variance
    log_outlier = _log_laplace(log_t + outlier_mean, spread)
    left = np.exp(-np.exp(log_t)) - np.exp((count - 1) * log_others + log_outlier)
    return float(np.trapezoid(left, log_t))


def _log_laplace(log_t: Floats, variance: float) -> Floats:
    """Return ln E[exp(-t e^z)]."""
    weights = np.exp(-(UNIT**2) / 2)
    exponent = np.minimum(log_t[:, None] + np.sqrt(variance) * UNIT[None, :], 50.0)
    # 1 - E is summed, not E, which for small t rounds to 1 before it is raised to the power `count`
    complement = -np.expm1(-np.exp(exponent)) @ (weights / weights.sum())
    with np.errstate(divide="ignore"):
        return np.asarray(np.log1p(-np.minimum(complement, 1.0)))
