"""The dual of each activation."""

from __future__ import annotations

from functools import cache
from typing import Protocol

from dslm.duals.gelu import Gelu
from dslm.duals.hermite import HermiteDual
from dslm.duals.piecewise import Identity, Relu
from dslm.duals.pointwise import POINTWISE
from dslm.spec import Activation, Floats


class Dual(Protocol):
    r"""Moments at :math:`(u, v)`, zero-mean Gaussian with variances a, b and covariance c.

    The arguments broadcast against each other; results have their common shape.
    """

    def value(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[φ(u) φ(v)]."""

    def slope(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[φ'(u) φ'(v)]."""

    def curvature(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[ψ(u) ψ(v)], ψ(u) = u φ'(u) − φ(u): zero where φ is homogeneous."""


@cache
def dual_of(activation: Activation) -> Dual:
    """Return the dual of `activation`: a closed form where there is one, else a Hermite series."""
    closed: dict[str, Dual] = {"relu": Relu(), "gelu": Gelu(), "identity": Identity()}
    return closed[activation] if activation in closed else HermiteDual(*POINTWISE[activation])
