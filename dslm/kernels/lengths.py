r"""Covariances of tokens' squared lengths over random weights.

A norm divides the gradient by these lengths. Their scatter makes the gradient larger, since
:math:`E[1/s^2] > 1/E[s^2]`: by the order of 1/d in every layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dslm.duals.piecewise import correlation_of
from dslm.kernels.grid import affine
from dslm.spec import Floats, Kernel, Residual


def random_lengths(x: Kernel, d_model: int) -> Kernel:
    r"""Return the relative covariance of :math:`|x_i|^2` and :math:`|x_j|^2` for a random stream.

    .. math:: v_{ij} = 2 \rho_{ij}^2 / d

    A token that is a sum of random branches has d independent Gaussian features.

    Source: fourth moments of a Gaussian. Exact for a Gaussian token.
    """
    off_diagonal = 2 * _cosine(x) ** 2 / d_model
    return replace(
        x, diagonal=np.full_like(x.diagonal, 2 / d_model), off_diagonal=off_diagonal, mean=0.0
    )


def post_ln_lengths(
    x: Kernel,
    branch: Kernel,
    summed: Kernel,
    *,
    residual: Residual,
    inner: int,
    d_model: int,
) -> Kernel:
    r"""Return half the relative covariance of :math:`|\lambda x_i + \beta f_i|^2`, |x| being fixed.

    The inner product :math:`x \cdot f` has variance :math:`d K_x K_f`, and the squared length of a
    branch of n (`inner`) features has relative variance :math:`2 (1/d + 1/n)`:

    .. math:: v_{ij} = \frac{4 \lambda^2\beta^2 K_{x,ij} K_{f,ij} / d
        + 2 \beta^4 (1/d + 1/n) K_{f,ij}^2}{S_{ii} S_{jj}}

    The gradient returns through the weights that made f, so it is not independent of them. Let
    :math:`\tau` be the branch's energy over the stream's, and h the gradient below the norm, which
    is orthogonal to :math:`x + \tau^{1/2} \hat f`. Given :math:`J x = f`,

    .. math:: x \cdot J^T h = f \cdot h = -x \cdot h

    so the weights pass less of h than of an independent gradient. Relative to that, the residual
    sum loses

    .. math:: \frac{2 \tau}{d (1+\tau)} + \frac{\tau^2}{1+\tau}\left(\frac1d + \frac1n\right)

    which over :math:`1 + \tau` is half of v. So half of the divisor's effect remains.

    Source: derived here, to first order in 1/d, for a branch of two linear layers on one token,
    and applied to the others. It vanishes for wide layers and for small branches.
    """
    lam2, beta2 = residual.lam**2, residual.beta**2
    rate = beta2**2 * (1 / d_model + 1 / inner)

    def half(stream: Floats, through: Floats, sizes: Floats) -> Floats:
        energy = 2 * lam2 * beta2 / d_model * stream * through + rate * through**2
        with np.errstate(divide="ignore", invalid="ignore"):  # a token that is all zero
            return np.asarray(np.where(sizes > 0, energy / sizes, 0.0))

    s = summed.diagonal
    diagonal = half(x.diagonal, branch.diagonal, s**2)
    off_diagonal = half(x.off_diagonal, branch.off_diagonal, np.outer(s, s))
    return replace(affine(x, 0.0), diagonal=diagonal, off_diagonal=off_diagonal)


def mean_inverse(lengths: Kernel) -> tuple[Floats, Floats]:
    r"""Return :math:`E[1/(s_i s_j)]` over its value at the expected lengths, for i=j and for i≠j.

    .. math:: 1 + v_{ii}, \quad 1 + \tfrac38 (v_{ii} + v_{jj}) + \tfrac14 v_{ij}

    v (`lengths`) being the relative covariances of :math:`s_i^2`.

    Source: second-order expansion of :math:`(1+\delta_i)^{-1/2} (1+\delta_j)^{-1/2}`.
    """
    v = lengths.diagonal
    return 1 + v, 1 + 0.375 * (v[:, None] + v[None, :]) + lengths.off_diagonal / 4


def _cosine(x: Kernel) -> Floats:
    return np.asarray(correlation_of(x.diagonal[:, None], x.diagonal[None, :], x.off_diagonal))
