r"""What a block does to the stream and to the gradient, from measured moments on its two sides.

Block l takes the stream at index l to index l+1, and the gradient at index l+1 to index l. Its
gains are :math:`\ln \sigma^2_{l+1} - \ln \sigma^2_l` and :math:`\ln g_l - \ln g_{l+1}`; what it
does to the correlation of tokens is the difference :math:`r_{l+1} - r_l`.
"""

from __future__ import annotations

import numpy as np

from dslm.ahead.slow_mean import Floats


def forward_gain(variance: Floats) -> Floats:
    r"""Return :math:`\ln \sigma^2_{l+1} - \ln \sigma^2_l` of each block.

    Args:
        variance: of the stream, (…, N+1).

    Returns:
        (…, N); NaN or infinite where a variance is not finite or 0.
    """
    with np.errstate(all="ignore"):
        return np.diff(np.log(variance), axis=-1)


def backward_gain(gradient: Floats) -> Floats:
    r"""Return :math:`\ln g_l - \ln g_{l+1}` of each block, as `forward_gain` does.

    Args:
        gradient: variance of dLoss/d(stream), (…, N+1).
    """
    return -forward_gain(gradient)


def correlation_step(correlation: Floats) -> Floats:
    """Return :math:`r_{l+1} - r_l` of each block; (…, N+1) becomes (…, N)."""
    with np.errstate(invalid="ignore"):
        return np.diff(correlation, axis=-1)


def composed(start: Floats, gains: Floats) -> Floats:
    r"""Return the curve that the gains make of block 0's input: :math:`\sigma^2_0 e^{\sum y}`.

    Args:
        start: variance at index 0, (…).
        gains: as `forward_gain` gives them, (…, N).

    Returns:
        (…, N+1).
    """
    with np.errstate(all="ignore"):
        return np.exp(np.log(start)[..., None] + _sums(gains))


def composed_down(top: Floats, gains: Floats) -> Floats:
    """Return the curve that the backward gains make of the gradient at the top.

    Args:
        top: variance at index N, (…).
        gains: as `backward_gain` gives them, (…, N).

    Returns:
        (…, N+1).
    """
    return composed(top, gains[..., ::-1])[..., ::-1]


def composed_steps(start: Floats, steps: Floats) -> Floats:
    """Return the correlations that the steps of the blocks make of that at index 0."""
    return np.clip(start[..., None] + _sums(steps), -1.0, 1.0)


def _sums(parts: Floats) -> Floats:
    return np.concatenate([np.zeros_like(parts[..., :1]), np.cumsum(parts, axis=-1)], axis=-1)
