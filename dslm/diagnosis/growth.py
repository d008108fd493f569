"""Which law a curve over depth follows: constant, linear, hyperbolic or exponential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from dslm.spec import Floats

Law = Literal["constant", "linear", "hyperbolic", "exponential"]
SAME_WITHIN = 0.01  # laws whose errors are both below 1 % count as equally good
FITS_WITHIN = 0.1  # error up to which a law is said to describe the curve
RATES_A_SCAN = 241
SCANS = 5


@dataclass(frozen=True, slots=True)
class Growth:
    r"""A law fitted to a curve over depth.

    Attributes:
        law: with a = `start`, b = `rate` and the layer l: a; a(1 + bl); a/(1 + bl); a e^{bl}.
        start: a, the law's value at layer 0.
        rate: b, per layer; positive but for an exponential that falls; 0 for a constant.
        error: root mean square of ln(curve/law).
        worst: largest |ln(curve/law)|.
    """

    law: Law
    start: float
    rate: float
    error: float
    worst: float

    @property
    def fits(self) -> bool:
        """Whether the law holds within 10 % (root mean square)."""
        return self.error <= FITS_WITHIN

    @property
    def factor(self) -> float:
        """What an exponential multiplies by in each layer; 1 for any other law."""
        return float(np.exp(self.rate)) if self.law == "exponential" else 1.0

    def at(self, layers: Floats) -> Floats:
        """Return the law's values at `layers`."""
        return np.asarray(self.start * np.exp(_log_shape(self.law, self.rate, layers)))


def fit_growth(curve: Floats) -> Growth | None:
    r"""Return the law that describes a positive curve over depth, or None for too few values.

    Each law is fitted by least squares on ln(curve). The result is the one with the smallest

    .. math:: n \ln \max(e, 0.01)^2 + k \ln n

    where e is its root mean square error, k its number of constants (1 for the constant law, 2
    for the others) and n the number of values. The second term is that of the Bayesian information
    criterion. Errors below 1 % count alike, so a drift of less than about 3 % over the whole depth
    is called constant.

    Args:
        curve: float64[N+1], indexed by layer. Index 0, the input, is left out, as the embedding
            sets its scale; so are values that are not positive or not finite. At least 3 must
            remain.

    Source: derived here.
    """
    layers = np.arange(len(curve), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(curve) & (curve > 0) & (layers >= 1)
    if usable.sum() < 3:
        return None
    fits = [_fit(law, layers[usable], np.log(curve[usable])) for law in get_args(Law)]
    return min(fits, key=lambda fit: _score(fit, int(usable.sum())))


@dataclass(frozen=True, slots=True)
class GrowthBelowTop:
    """The law of a gradient below the top layers, where another law holds.

    Attributes:
        top_layers: layers at the top that the law leaves out.
        growth: the law, from layer 1 up to there.
    """

    top_layers: int
    growth: Growth


def fit_below_top(curve: Floats) -> GrowthBelowTop | None:
    """Return the law of as many lower layers as one law fits; None where no lower half has one.

    Tokens' gradients are independent at the top, and become as correlated as the stack makes them
    on their way down; in these layers another law holds. Their number is found by bisection.
    """
    high = len(curve) - 1  # the law of layers 1 to `high` does not fit, of 1 to `low` it does
    low, best = high // 2, _fitting(curve, high // 2)
    if best is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        fit = _fitting(curve, middle)
        if fit is None:
            high = middle
        else:
            low, best = middle, fit
    return GrowthBelowTop(len(curve) - 1 - low, best)


def _fitting(curve: Floats, last: int) -> Growth | None:
    fit = fit_growth(curve[: last + 1])
    return fit if fit is not None and fit.fits else None


def _score(fit: Growth, n: int) -> float:
    constants = 1 if fit.law == "constant" else 2
    return float(2 * n * np.log(max(fit.error, SAME_WITHIN)) + constants * np.log(n))


def _fit(law: Law, layers: Floats, logs: Floats) -> Growth:
    rate = _best_rate(law, layers, logs)
    shape = _log_shape(law, rate, layers)
    start = float((logs - shape).mean())
    residual = logs - shape - start
    error, worst = float(np.sqrt((residual**2).mean())), float(np.abs(residual).max())
    return Growth(law, float(np.exp(start)), rate, error, worst)


def _best_rate(law: Law, layers: Floats, logs: Floats) -> float:
    if law == "constant":
        return 0.0
    if law == "exponential":
        return float(np.polyfit(layers, logs, 1)[0])
    # the rate has no closed form: it is searched on ever finer grids
    low, high = 1e-6, 1e6
    for _ in range(SCANS):  # each narrows the bracket 120-fold in the logarithm
        rates = np.geomspace(low, high, RATES_A_SCAN)
        residual = logs - _log_shape(law, rates[:, None], layers)
        best = int(np.argmin(residual.var(axis=1)))
        low, high = rates[max(best - 1, 0)], rates[min(best + 1, RATES_A_SCAN - 1)]
    return float(np.sqrt(low * high))


def _log_shape(law: Law, rate: float | Floats, layers: Floats) -> Floats:
    if law == "exponential":
        return np.asarray(rate * layers)
    sign = {"constant": 0.0, "linear": 1.0, "hyperbolic": -1.0}[law]
    return np.asarray(sign * np.log1p(rate * layers))
