"""A feed-forward branch, propagated through its actual weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dslm.directions.mixture import Branch, BranchInput, Dense, Mixture, transform
from dslm.duals.pointwise import POINTWISE
from dslm.spec import Activation, Floats

ORDERS = 4  # of the Hermite series for the covariance of two hidden features
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
UNIT = WEIGHTS / WEIGHTS.sum()
POWERS = np.stack(
    [np.polynomial.hermite_e.hermeval(NODES, np.eye(ORDERS)[k]) for k in range(ORDERS)]
)


def feed_forward(
    reading: BranchInput, up: Dense, down: Dense, activation: Activation, p_drop: float = 0.0
) -> Branch:
    r"""Return the output of down(dropout(φ(up(x)))).

    Within a group :math:`u = W_1 x + b_1` is Gaussian with mean :math:`\mu_c`. With the
    coefficients :math:`a_k = E[\phi(u) He_k]/\sqrt{k!}`, two hidden features have the covariance

    .. math:: Cov(\phi(u), \phi(u')) = \sum_{k \ge 1} a_k a'_k \rho^k

    which is cut after the third order; each feature's variance is exact. For covariances between
    tokens, and with the stream, φ is replaced by its slope of least squares.

    Source: derived here, after Price and Mehler. Exact GELU is taken by its tanh form.
    """
    x = reading.x
    means = x.means @ up.weight.T + up.bias
    inside = up.weight @ x.within @ up.weight.T
    sd = np.sqrt(np.maximum(np.diagonal(inside), 1e-30))  # a feature may not vary in a group
    series, variances = _series(means, sd, _function(activation))
    hidden, slope = series[0], x.shares @ series[1] / sd
    within = _shared(x.shares, series, inside / np.outer(sd, sd))
    # the series is cut, so a feature's variance comes from quadrature; dropout adds to it alone
    dropped = p_drop / (1 - p_drop) * (x.shares @ (variances + hidden**2))
    np.fill_diagonal(within, x.shares @ variances + dropped)
    mean = x.shares @ hidden
    steep = _least_squares(x.shares, means, hidden, slope, sd)
    between = up.weight @ (x.cross - np.outer(x.mean, x.mean)) @ up.weight.T
    cross = np.outer(mean, mean) + np.outer(steep, steep) * between
    crossed = reading.cross_with_stream - np.outer(x.mean, reading.stream_mean)
    y = Mixture(
        x.shares,
        hidden @ down.weight.T + down.bias,
        down.weight @ within @ down.weight.T,
        transform(cross, mean, down),
    )
    return Branch(
        y,
        down.weight @ (slope[:, None] * (up.weight @ reading.with_stream)),
        down.weight @ (steep[:, None] * (up.weight @ crossed))
        + np.outer(y.mean, reading.stream_mean),
    )


def _function(activation: Activation) -> Callable[[Floats], Floats]:
    simple: dict[str, Callable[[Floats], Floats]] = {
        "relu": lambda u: np.maximum(u, 0.0),
        "identity": lambda u: u,
        "gelu": POINTWISE["gelu_tanh"][0],
    }
    return simple[activation] if activation in simple else POINTWISE[activation][0]


def _series(
    means: Floats, sd: Floats, function: Callable[[Floats], Floats]
) -> tuple[Floats, Floats]:
    """Return (orders, groups, features) coefficients and (groups, features) variances."""
    series = np.zeros((ORDERS, *means.shape))
    variances = np.zeros_like(means)
    for group, mean in enumerate(means):
        values = function(mean[:, None] + sd[:, None] * NODES)
        for k in range(ORDERS):
            series[k, group] = (values * POWERS[k]) @ UNIT / math.sqrt(math.factorial(k))
        variances[group] = values**2 @ UNIT - series[0, group] ** 2
    return series, variances


def _shared(shares: Floats, series: Floats, correlation: Floats) -> Floats:
    total = np.zeros_like(correlation)
    for k in range(1, ORDERS):
        total += (shares[:, None] * series[k]).T @ series[k] * correlation**k
    return total


def _least_squares(
    shares: Floats, means: Floats, hidden: Floats, slope: Floats, sd: Floats
) -> Floats:
    """Return Cov(φ(u), u)/Var(u) over all tokens."""
    centred = means - shares @ means
    both = shares @ (centred * hidden) + slope * sd**2
    return np.asarray(both / (shares @ centred**2 + sd**2))
