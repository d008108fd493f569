"""ReLU and the identity."""

from __future__ import annotations

import numpy as np

from dslm.spec import Floats


def correlation_of(a: Floats, b: Floats, c: Floats) -> Floats:
    """Return c/√(ab), clipped to [-1, 1]; 0 where a variance is 0."""
    scale = np.sqrt(a * b)
    return np.clip(
        np.divide(c, scale, out=np.zeros(np.broadcast(c, scale).shape), where=scale > 0), -1, 1
    )


class Identity:
    """φ(u) = u."""

    def value(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return c."""
        return c + 0 * (a + b)

    def slope(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return 1."""
        return np.ones_like(self.value(a, b, c))

    def curvature(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return 0."""
        return np.zeros_like(self.value(a, b, c))


class Relu:
    r"""φ(u) = max(u, 0), the arc-cosine kernels.

    .. math:: E[\phi\phi] = \frac{\sqrt{ab}}{2\pi}(\sqrt{1-r^2} + r(\pi - \arccos r)), \quad
        E[\phi'\phi'] = \frac14 + \frac{\arcsin r}{2\pi}

    Source: arXiv 2403.09635, Table 1 (ReLU), as second moments. Exact.
    """

    def value(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[φ(u) φ(v)]."""
        r = correlation_of(a, b, c)
        shape = np.sqrt(1 - r**2) + r * (np.pi - np.arccos(r))
        return np.asarray(np.sqrt(a * b) * shape / (2 * np.pi))

    def slope(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return E[φ'(u) φ'(v)]."""
        return np.asarray(0.25 + np.arcsin(correlation_of(a, b, c)) / (2 * np.pi))

    def curvature(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """Return 0: ReLU is homogeneous."""
        return np.zeros(np.broadcast(a, b, c).shape)
