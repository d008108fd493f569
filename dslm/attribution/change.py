r"""Changes of a quantity between two moments, split into causes without remainder.

A quantity is built of factors and addends. The logarithm of its ratio splits over factors as a sum,
and over addends :math:`A = \sum_i a_i` by logarithmic means (Ang's additive logarithmic mean
Divisia index):

.. math:: \ln\frac{A'}{A} = \sum_i \frac{L(a_i', a_i)}{L(A', A)} \ln\frac{a_i'}{a_i},
    \qquad L(u, v) = \frac{u - v}{\ln u - \ln v}

which is exact, in any order of the addends, and the same whether sums are nested or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, get_args

Term = Literal[
    "weights",
    "norms",
    "directions",
    "attention",
    "activation",
    "norm_inputs",
    "alignment",
    "entering",
    "remainder",
]
TERMS: tuple[Term, ...] = get_args(Term)
Cause = tuple[str, Term]  # which part of a block, and what of it


class UndefinedError(ValueError):
    """A ratio without meaning: of values that are zero, negative, or not finite."""


@dataclass(frozen=True, slots=True)
class Change:
    """A positive quantity at two moments.

    Attributes:
        before, after: its values.
        causes: natural logarithms that add up to ln(after / before).
    """

    before: float
    after: float
    causes: Mapping[Cause, float] = field(default_factory=dict)

    @property
    def log_ratio(self) -> float:
        """ln(after / before)."""
        return math.log(self.after / self.before)

    def by_term(self) -> dict[Term, float]:
        """The causes, added up over the parts; every term has a value."""
        terms = dict.fromkeys(TERMS, 0.0)
        for (_, term), value in self.causes.items():
            terms[term] += value
        return terms


def ratio(before: float, after: float, cause: Cause) -> Change:
    """A change that one cause explains; raises UndefinedError where it has no ratio."""
    if not (0 < before < math.inf and 0 < after < math.inf):
        raise UndefinedError(f"{cause[0]}: a ratio of {after:.3g} to {before:.3g}")
    return Change(before, after, {cause: math.log(after / before)})


def constant(before: float, after: float) -> Change:
    """A number that has no cause; it is the same at both moments, or the remainder says so."""
    if before == after and 0 < before < math.inf:
        return Change(before, after)
    return ratio(before, after, ("residual", "remainder"))


def product(*factors: Change) -> Change:
    """The product: causes of its factors add up."""
    before = math.prod(change.before for change in factors)
    after = math.prod(change.after for change in factors)
    return Change(before, after, _added((change.causes, 1.0) for change in factors))


def inverse(change: Change) -> Change:
    """One over the quantity."""
    causes = {cause: -value for cause, value in change.causes.items()}
    return Change(1 / change.before, 1 / change.after, causes)


def measured(predicted: Change, before: float, after: float, cause: Cause) -> Change:
    """The measured quantity; what `predicted` leaves unexplained is put down to `cause`."""
    return product(predicted, ratio(before / predicted.before, after / predicted.after, cause))


def appearing(before: float, after: float, cause: Cause) -> Change:
    """An addend that is 0 at one moment: all of its difference is put down to `cause`."""
    return Change(before, after, {cause: math.copysign(math.inf, after - before)})


def total(addends: Iterable[Change]) -> Change:
    """The sum of independent addends."""
    addends = tuple(addends)
    before, after = (sum(getattr(a, name) for a in addends) for name in ("before", "after"))
    scale = _log_mean_of(before, after)
    return Change(before, after, _added(_shares(addends, scale)))


def with_bias(predicted: Change, before: float, after: float, cause: Cause) -> Change:
    """`predicted` and the mean square of a bias, which may be 0."""
    if before == after == 0:
        return predicted
    is_new = before == 0 or after == 0
    bias = appearing(before, after, cause) if is_new else ratio(before, after, cause)
    return total([predicted, bias])


def aligned_sum(addends: Iterable[Change], before: float, after: float, cause: Cause) -> Change:
    r"""The measured variance of a sum of vectors, whose covariances are put down to `cause`.

    With :math:`C = \sigma^2 - \sum_i a_i` and :math:`M = 2 \sum_{i<j} \sqrt{a_i a_j}`, the cosine
    :math:`\rho = C/M` is what alignment means; M follows from the addends. The difference is split
    evenly between the two, :math:`C' - C = \bar M (\rho' - \rho) + \bar\rho (M' - M)`, with means
    over both moments, so that addends which grow while the cosine stays have no alignment.

    Raises UndefinedError where the measured variance is no positive number.
    """
    addends = tuple(addends)
    scale = _log_mean_of(before, after)
    bounds = [_root_of_product(a, b) for a, b in combinations(addends, 2)]
    largest = 2 * sum(b.before for b in bounds), 2 * sum(b.after for b in bounds)
    covariance = (
        before - sum(a.before for a in addends),
        after - sum(a.after for a in addends),
    )
    shares: Shares
    if min(largest) == 0:  # an addend that appears has no angle before
        shares = [({cause: covariance[1] - covariance[0]}, 1 / scale)]
    else:
        rho = covariance[0] / largest[0], covariance[1] / largest[1]
        by_cosine = (largest[0] + largest[1]) / 2 * (rho[1] - rho[0])
        shares = [({cause: by_cosine}, 1 / scale)]
        # Each bound's part of the mean cosine times what M has changed by.
        shares += _shares(bounds, scale / (rho[0] + rho[1])) if rho[0] + rho[1] else []
    return Change(before, after, _added([*_shares(addends, scale), *shares]))


def log_mean(u: float, v: float) -> float:
    """The logarithmic mean of two positive numbers."""
    # By the series near 1, where numerator and denominator vanish together.
    x = math.log(v / u)
    return u * (1 + x / 2 + x * x / 6) if abs(x) < 1e-4 else u * math.expm1(x) / x


def _log_mean_of(before: float, after: float) -> float:
    if not (0 < before < math.inf and 0 < after < math.inf):
        raise UndefinedError(f"a sum of {before:.3g}, then {after:.3g}")
    return log_mean(before, after)


Shares = list[tuple[Mapping[Cause, float], float]]


def _shares(addends: Iterable[Change], scale: float) -> Shares:
    """What each addend makes of the logarithm of its sum, whose logarithmic mean is `scale`."""
    shares: Shares = []
    for addend in addends:
        if addend.before > 0 and addend.after > 0:
            shares.append((addend.causes, log_mean(addend.before, addend.after) / scale))
        else:
            difference = (addend.after - addend.before) / scale / max(len(addend.causes), 1)
            shares.append((dict.fromkeys(addend.causes, 1.0), difference))
    return shares


def _root_of_product(a: Change, b: Change) -> Change:
    causes = _added([(a.causes, 0.5), (b.causes, 0.5)])
    return Change(math.sqrt(a.before * b.before), math.sqrt(a.after * b.after), causes)


def _added(weighted: Iterable[tuple[Mapping[Cause, float], float]]) -> dict[Cause, float]:
    causes: dict[Cause, float] = {}
    for mapping, weight in weighted:
        for cause, value in mapping.items():
            causes[cause] = causes.get(cause, 0.0) + weight * value
    return causes
