"""exp(q·t) as a short sum of products of functions of q and of t.

Sums over keys are then taken once for each term, not once for every value of q.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dslm.spec import Floats

RELATIVE_ERROR = 1e-3  # far below the theory's; every node costs a pass over all keys
MAX_NODES = 32
MAX_EXPONENT = 300.0  # of what is split off, either way: e^709 overflows
ALL = slice(None)


@dataclass(frozen=True, slots=True)
class Interpolation:
    r"""Chebyshev interpolation of the slowly varying part of :math:`e^{qt}`.

    .. math:: e^{qt} \approx e^{s} \sum_m u_m(t)\, e^{(q - c) t_m}, \quad
        u_m(t) = \ell_m(t)\, e^{ct - s}

    with c amid the values of q. How many nodes it takes depends on how far these lie
    apart, not on how large they are.

    Attributes:
        nodes: (m,) the points t_m.
        basis: (m, ...) u_m at each value of t.
        centre: c.
        shift: s, the largest c·t, so that u_m does not overflow.
    """

    nodes: Floats
    basis: Floats
    centre: float = 0.0
    shift: float = 0.0

    def exponents(self, q: Floats, part: slice = ALL) -> Floats:
        """Return (m, *q.shape) the logarithms of the factors on `basis` for each q."""
        return np.multiply.outer(self.nodes[part], q - self.centre) + self.shift


def interpolation(t: Floats, q: Floats) -> Interpolation:
    r"""Return the interpolation in t of exp(q·t) for these values of q.

    The number of nodes follows from the error bound :math:`2 (z/2)^n e^z / n!`, with z half the
    range of (q-c)·t; it stops at ``MAX_NODES``, where a softmax has long become one-hot. The
    median of q is c, as the error grows with \|q-c\|: a few large q cost the others nothing.
    """
    low, high = float(t.min()), float(t.max())
    centre, half = float(np.median(q)), (high - low) / 2
    if not abs(centre) * half < MAX_EXPONENT:
        centre = 0.0
    shift = max(centre * low, centre * high)
    prefactor = np.exp(centre * t - shift)
    z = float(np.abs(q - centre).max()) * half
    if not z > RELATIVE_ERROR:
        return Interpolation(np.array([(low + high) / 2]), prefactor[None], centre, shift)
    n = _n_nodes(z)
    nodes = (low + high) / 2 + half * np.cos(np.pi * (np.arange(n) + 0.5) / n)
    # rounding may put t a little outside, where polynomials grow fast
    unit_t = np.clip((2 * t - low - high) / (high - low), -1.0, 1.0)
    return Interpolation(nodes, _lagrange_basis(unit_t, n) * prefactor, centre, shift)


def _n_nodes(z: float) -> int:
    n = 2
    while n < MAX_NODES:
        log_bound = math.log(2) + n * math.log(z / 2) + z - math.lgamma(n + 1)
        if log_bound < math.log(RELATIVE_ERROR):
            break
        n += 1
    return n


def _lagrange_basis(unit_t: Floats, n: int) -> Floats:
    """Return l_m(t) = (1/n)·(1 + 2·sum_k T_k(t_m)·T_k(t)) for the n Chebyshev points."""
    angles = np.pi * (np.arange(n) + 0.5) / n
    polynomials = np.empty((n, unit_t.size))
    polynomials[0] = 0.5
    polynomials[1] = unit_t.ravel()
    for order in range(2, n):
        np.multiply(2 * polynomials[1], polynomials[order - 1], out=polynomials[order])
        polynomials[order] -= polynomials[order - 2] if order > 2 else 1.0
    coefficients = 2 / n * np.cos(np.outer(angles, np.arange(n)))
    return np.asarray((coefficients @ polynomials).reshape(n, *unit_t.shape))
