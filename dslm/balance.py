"""Each branch's share of its block, balanced so that the gradient keeps its variance as well."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dslm.kernels.grid import mean_diagonal
from dslm.spec import Block, Kernel
from dslm.unit_branches import Amplitudes, residuals

# Bounds on a branch's share, relative to an even one: without them the optimum could scale a
# branch out of the model for the sake of a flat curve.
LEAST_SHARE, MOST_SHARE = 0.25, 1.5
STIFFNESS = 10.0  # kappa: what is left of a drift, 1/(1 + kappa |a|²), before shares are cut


def backward_gains(block: Block, gradients: Sequence[Kernel]) -> list[float]:
    r"""Return :math:`b_i`, the gradient variance that each branch passes down per unit arriving.

    Below a residual step the variance is :math:`g(\lambda^2 + \beta^2 b)`, as branches have unit
    variance; below two parallel branches it is
    :math:`g(\lambda^2 + \beta_a^2 b_a + \beta_f^2 b_f)`.

    Args:
        block: the block, with its amplitudes.
        gradients: gradient kernels, lowest first: below the block, between its steps, above it.

    Source: derived here.
    """
    size = [mean_diagonal(kernel) for kernel in gradients]
    steps = residuals(block)
    if block.placement != "parallel":
        pairs = zip(size, size[1:], steps, strict=False)
        return [(low / high - s.lam**2) / s.beta**2 for low, high, s in pairs]
    below, through_last = size[0] / size[2], size[1] / size[2] - 1
    first, last = steps
    through_first = below - first.lam**2 - through_last
    return [through_first / first.beta**2, through_last / last.beta**2]


def balanced_shares(gains: Sequence[float]) -> list[float]:
    r"""Return each branch's share relative to an even one; 1 where all gains are 1.

    Over a block the gradient's variance changes by :math:`\sum_i \beta_i^2 (b_i - 1)` to first
    order. Let :math:`a_i = b_i - 1` and :math:`\beta_i^2 \propto w_i`. The minimum of
    :math:`|w - 1|^2 + \kappa (w \cdot a)^2`, which weighs that drift against the distance from
    the paper's even shares, is

    .. math:: w = 1 - \mu a, \quad \mu = \frac{\kappa \sum_i a_i}{1 + \kappa |a|^2}

    clipped to ``LEAST_SHARE`` and ``MOST_SHARE``. A branch that loses gradient is balanced by one
    that gains it; where both lose or both gain, both are scaled down.

    Source: derived here.
    """
    slope = np.asarray(gains, dtype=np.float64) - 1
    step = STIFFNESS * float(slope.sum()) / (1 + STIFFNESS * float(slope @ slope))
    return [float(w) for w in np.clip(1 - step * slope, LEAST_SHARE, MOST_SHARE)]


def amplitudes(squares: Sequence[float], *, parallel: bool) -> tuple[Amplitudes, ...]:
    r"""Return the residual steps of a block from its branches' :math:`\beta_i^2`.

    In series, :math:`\lambda_i^2 = 1 - \beta_i^2`. In parallel, the first step carries
    :math:`\lambda^2 = 1 - \sum \beta_i^2` and the others 1, as they share one skip.
    """
    if parallel:
        first, *others = (math.sqrt(b) for b in squares)
        return Amplitudes(math.sqrt(1 - sum(squares)), first), *(Amplitudes(1.0, b) for b in others)
    return tuple(Amplitudes(math.sqrt(1 - b), math.sqrt(b)) for b in squares)
