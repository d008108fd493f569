"""The scalar moments that component formulas map, and the checks of their assumptions."""

from __future__ import annotations

from dataclasses import dataclass

from dslm.errors import AssumptionError


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of a (batch, seq, features) activation. Dimensionless.

    Attributes:
        mean: mean over batch, tokens and features.
        var: variance over the same.
        corr_l: correlation between two different tokens of a sequence, at one feature.
    """

    mean: float
    var: float
    corr_l: float

    def __post_init__(self) -> None:
        require_moments(self.var, self.corr_l)

    @property
    def second_moment(self) -> float:
        """Return E[x²]."""
        return self.var + self.mean**2

    @property
    def cov_l(self) -> float:
        """Return the covariance between two different tokens."""
        return self.corr_l * self.var


@dataclass(frozen=True, slots=True)
class GradMoments:
    """Moments of a zero-mean (batch, seq, features) gradient.

    Attributes:
        var: variance over batch, tokens and features.
        corr_l: correlation between two different tokens of a sequence, at one feature.
    """

    var: float
    corr_l: float

    def __post_init__(self) -> None:
        require_moments(self.var, self.corr_l)

    @property
    def cov_l(self) -> float:
        """Return the covariance between two different tokens."""
        return self.corr_l * self.var


def require_moments(var: float, corr_l: float) -> None:
    """Raise AssumptionError unless a variance is ≥ 0 and a correlation within [-1, 1]."""
    if not var >= 0:
        raise AssumptionError(f"a variance of {var}: give one of at least 0")
    if not -1 - 1e-9 <= corr_l <= 1 + 1e-9:  # rounding in a quotient of sums may pass 1
        raise AssumptionError(f"a correlation of {corr_l}: give one from -1 to 1")


def require_zero_mean(x: Moments, component: str) -> None:
    """Raise AssumptionError unless the mean is 0, against the size of the signal."""
    if abs(x.mean) > 1e-9 * max(x.var, 1e-300) ** 0.5:
        raise AssumptionError(f"{component} assumes inputs of zero mean; theirs is {x.mean}")


def require_probability(p_drop: float) -> None:
    """Raise AssumptionError unless 0 <= p_drop < 1."""
    if not 0 <= p_drop < 1:
        raise AssumptionError(f"a dropout probability of {p_drop}: give one from 0 to below 1")


def require_at_least(name: str, size: float, least: float) -> None:
    """Raise AssumptionError when `size` is below `least`."""
    if not size >= least:
        raise AssumptionError(f"{name} is {size}: give at least {least}")
