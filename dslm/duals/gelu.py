"""Exact GELU in closed form."""

from __future__ import annotations

import numpy as np

from dslm.spec import Floats


class Gelu:
    r"""φ(u) = u Φ(u), with Φ the normal distribution function and p its density.

    With :math:`D = (1+a)(1+b) - c^2`, :math:`P = E[p(u)p(v)] = 1/(2\pi\sqrt D)` and
    :math:`F = E[\Phi(u)\Phi(v)] = \frac14 + \frac1{2\pi}\arcsin\frac{c}{\sqrt{(1+a)(1+b)}}`:

    .. math::
        E[\phi\phi] &= cF + P\left(ab + c^2\left(\tfrac1{1+a} + \tfrac1{1+b} - 1\right)\right) \\
        E[\phi'\phi'] &= F + Pc\left(\tfrac1{1+a} + \tfrac1{1+b} + \tfrac1D\right) \\
        E[\psi\psi] &= P(S_{11}S_{22} + 2c^2/D^2), \quad S_{11} = (a(1+b) - c^2)/D

    Source: derived here. Stein's identity moves each factor u or v into a derivative; p(u)p(v)
    reweighs the Gaussian to one of covariance :math:`S = \Sigma(I + \Sigma)^{-1}`; and
    :math:`u\phi' - \phi = u^2 p`. Exact.
    """

    def value(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[φ(u) φ(v)]."""
        both, density, _ = _parts(a, b, c)
        return np.asarray(c * both + density * (a * b + c**2 * (1 / (1 + a) + 1 / (1 + b) - 1)))

    def slope(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[φ'(u) φ'(v)]."""
        both, density, det = _parts(a, b, c)
        return np.asarray(both + density * c * (1 / (1 + a) + 1 / (1 + b) + 1 / det))

    def curvature(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[ψ(u) ψ(v)], ψ(u) = u² p(u)."""
        _, density, det = _parts(a, b, c)
        product = (a * (1 + b) - c**2) * (b * (1 + a) - c**2)
        return np.asarray(density * (product + 2 * c**2) / det**2)


def _parts(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
    scale = (1 + a) * (1 + b)
    both = 0.25 + np.arcsin(np.clip(c / np.sqrt(scale), -1, 1)) / (2 * np.pi)
    det = 1 + a + b + np.maximum(a * b - c**2, 0.0)  # scale - c² without its cancellation
    return both, 1 / (2 * np.pi * np.sqrt(det)), det
