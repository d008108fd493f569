"""The dual of any smooth activation, as a Hermite series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from dslm.duals.piecewise import correlation_of
from dslm.duals.pointwise import Pointwise
from dslm.spec import Floats

N_ORDERS = 24  # terms of a series; the energy in higher ones is below 1e-4 (`HermiteDual`)
GRID = np.linspace(-9.0, 9.0, 721)  # the trapezoid rule converges geometrically on a Gaussian


@dataclass(frozen=True)
class HermiteDual:
    r"""Mehler's formula for two correlated Gaussians.

    .. math:: E[f(u) f(v)] = \sum_n h_n(a)\, h_n(b)\, r^n, \quad
        h_n(a) = E[f(\sqrt a z)\, He_n(z)] / \sqrt{n!}

    The energy beyond ``N_ORDERS`` terms is given to the next power of r, so that r = 1 is exact.

    Source: Mehler's formula; truncation derived here. Within 1e-4 of E[f²] for the activations
    in `dslm.duals.pointwise` at variances up to 10.
    """

    function: Pointwise
    derivative: Pointwise

    def value(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[φ(u) φ(v)]."""
        return _series(self.function, a, b, c)

    def slope(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[φ'(u) φ'(v)]."""
        return _series(self.derivative, a, b, c)

    def curvature(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[ψ(u) ψ(v)], ψ(u) = u φ'(u) − φ(u)."""
        return _series(lambda u: u * self.derivative(u) - self.function(u), a, b, c)


def _series(f: Pointwise, a: Floats, b: Floats, c: Floats) -> Floats:
    r = correlation_of(a, b, c)
    h_a, tail_a = _coefficients(f, a)
    h_b, tail_b = _coefficients(f, b)
    total = np.sqrt(tail_a * tail_b) * r
    # Horner's scheme, in place: these arrays are (cells, cells) and most of a layer's time
    for n in range(N_ORDERS - 1, 0, -1):
        total += h_a[n] * h_b[n]
        total *= r
    total += h_a[0] * h_b[0]
    return np.asarray(total)


def _coefficients(f: Pointwise, variance: Floats) -> tuple[Floats, Floats]:
    """Return h_n, (orders, *shape), and the energy left out.

    Where all variances are equal, as below a norm, both have a shape of ones and broadcast.
    """
    rounded = _rounded(variance)
    distinct, inverse = np.unique(rounded, return_inverse=True)
    h, tail = _distinct_coefficients(f, distinct.tobytes())
    shape = variance.shape if len(distinct) > 1 else (1,) * variance.ndim
    index = inverse.reshape(-1)[: math.prod(shape)]
    return h[:, index].reshape(-1, *shape), tail[index].reshape(shape)


@lru_cache(maxsize=8)  # rows, columns and diagonal of a kernel have the same variances
def _distinct_coefficients(f: Pointwise, variances: bytes) -> tuple[Floats, Floats]:
    polynomials, weights = _basis()
    values = f(np.sqrt(np.frombuffer(variances))[:, None] * GRID)
    h = (polynomials * weights) @ values.T
    return h, np.maximum(values**2 @ weights - (h**2).sum(axis=0), 0.0)


def _rounded(variance: Floats) -> Floats:
    """Round to a relative 1e-5: below a norm all positions then have one variance."""
    mantissa, exponent = np.frexp(variance)
    return np.asarray(np.ldexp(np.round(mantissa, 5), exponent))


@cache
def _basis() -> tuple[Floats, Floats]:
    """Return normalised Hermite polynomials on the grid, and Gaussian quadrature weights."""
    rows = [np.ones_like(GRID), GRID]
    for n in range(1, N_ORDERS - 1):
        rows.append((GRID * rows[n] - math.sqrt(n) * rows[n - 1]) / math.sqrt(n + 1))
    weights = np.exp(-(GRID**2) / 2)
    return np.array(rows), weights / weights.sum()


def gaussian_mean(f: Pointwise, variance: float) -> float:
    """Return E[f(u)] for a zero-mean Gaussian u."""
    return float(_basis()[1] @ f(math.sqrt(variance) * GRID))
