r"""How far a branch points along the stream it is added to, from variances alone.

A residual sum has :math:`\sigma^2_{out} = \lambda^2 \sigma^2_x + \sigma^2_f + 2 \lambda \rho\,
\sigma_x \sigma_f`, so that three measured variances give :math:`\rho`. Random weights have
:math:`\rho = 0`; trained ones write along what the stream holds already, or against it.
"""

from __future__ import annotations

import numpy as np

from dslm.ahead.slow_mean import Floats


def alignment(
    stream: Floats, branch: Floats, total: Floats, *, lam: Floats | float, p_drop: Floats | float
) -> Floats:
    r"""Return :math:`\rho`, the correlation coefficient of branch and stream.

    .. math:: \rho = \frac{\sigma^2_{out} - \lambda^2\sigma^2_x - \sigma^2_f / (1 - p)}
        {2 \lambda\,\sigma_x \sigma_f}

    Dropout after the branch is independent of both: it adds variance and no covariance.

    Args:
        stream: variance of what the branch is added to.
        branch: variance of what it adds, with its scale, before its dropout of `p_drop`.
        total: variance of the sum.
        lam: the stream's scale.
        p_drop: probability of the dropout between the branch and the sum.

    Returns:
        From -1 to 1 up to the sampling of the dropout; NaN where a variance is 0 or not finite.

    Source: the variance of a sum. Exact, for a branch of mean 0 under dropout.
    """
    with np.errstate(all="ignore"):
        covariance = total - lam**2 * stream - branch / (1 - p_drop)
        return _finite(covariance / (2 * lam * np.sqrt(stream) * np.sqrt(branch)))


def block_alignment(
    stream: Floats,
    attention: Floats,
    feed_forward: Floats,
    total: Floats,
    *,
    lam: Floats | float,
    attention_lam: Floats | float,
    p_drop: tuple[Floats | float, Floats | float],
) -> Floats:
    r"""Return the mean cosine between the three parts of a block's output: stream and branches.

    .. math:: \bar\rho = \frac{\sigma^2_{out} - \sum_i \sigma^2_i}{2 \sum_{i<j} \sigma_i \sigma_j}

    The mean is weighted with the sizes of the pairs. It is what variances tell of a block whose
    stream between the branches is not measured.

    Args:
        stream: variance of the block's input.
        attention, feed_forward: variances of what the branches add, before their dropouts.
        total: variance of the block's output.
        lam: the stream's scale through the whole block.
        attention_lam: the scale of attention's part in the output: that of the second sum.
        p_drop: of attention's and the feed-forward layer's dropout.

    Source: the variance of a sum. Exact, for branches of mean 0 under dropout.
    """
    with np.errstate(all="ignore"):
        parts = [lam**2 * stream, attention_lam**2 * attention, feed_forward * 1.0]
        summed = parts[0] + parts[1] / (1 - p_drop[0]) + parts[2] / (1 - p_drop[1])
        x, a, f = map(np.sqrt, parts)
        return _finite((total - summed) / (2 * (x * a + x * f + a * f)))


def _finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.nan)
