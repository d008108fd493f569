"""exp(q·t) as a short sum of products of functions of q and of t.

Sums over keys are then taken once for each term, not once for every value of q.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dslm.spec import Floats

RELATIVE_ERROR = 1e-5  # far below the theory's; every node costs a pass over all keys
MAX_NODES = 32


@dataclass(frozen=True, slots=True)
class Interpolation:
    r"""Chebyshev interpolation :math:`f(t) \approx \sum_m \ell_m(t) f(t_m)`.

    Attributes:
        nodes: (m,) the points t_m.
        basis: (m, ...) the polynomials l_m at each value of t.
    """

    nodes: Floats
    basis: Floats


def interpolation(t: Floats, q_max: float) -> Interpolation:
    r"""Return the interpolation in t of exp(q·t) for every \|q\| up to `q_max`.

    The number of nodes follows from the error bound :math:`2 (z/2)^n e^z / n!`, with z half the
    range of q·t; it stops at ``MAX_NODES``, where a softmax has long become one-hot.
    """
    low, high = float(t.min()), float(t.max())
    z = q_max * (high - low) / 2
    if not z > RELATIVE_ERROR:
        return Interpolation(np.array([(low + high) / 2]), np.ones((1, *t.shape)))
    n = _n_nodes(z)
    unit_nodes = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    nodes = (low + high) / 2 + (high - low) / 2 * unit_nodes
    # rounding may put t a little outside, where polynomials grow fast
    unit_t = np.clip((2 * t - low - high) / (high - low), -1.0, 1.0)
    return Interpolation(nodes, _lagrange_basis(unit_t, n))


def _n_nodes(z: float) -> int:
    n = 2
    while n < MAX_NODES:
        if math.log(2) + n * math.log(z / 2) + z - math.lgamma(n + 1) < math.log(RELATIVE_ERROR):
            break
        n += 1
    return n


def _lagrange_basis(unit_t: Floats, n: int) -> Floats:
    """Return l_m(t) = (1/n)·(1 + 2·sum_k T_k(t_m)·T_k(t)) for the n Chebyshev points."""
    angles = np.pi * (np.arange(n) + 0.5) / n
    basis = np.ones((n, *unit_t.shape))
    previous, current = np.ones_like(unit_t), unit_t
    for order in range(1, n):
        coefficients = 2 * np.cos(order * angles)
        basis += coefficients.reshape(-1, *[1] * unit_t.ndim) * current
        previous, current = current, 2 * unit_t * current - previous
    return np.asarray(basis / n)
