"""Interpolation of exp(q·t), on which sums over keys are taken."""

from __future__ import annotations

import numpy as np
import pytest

from dslm.kernels.chebyshev import MAX_NODES, interpolation
from dslm.spec import Floats


def interpolated(t: Floats, q: Floats, low: float, high: float) -> Floats:
    """Return (q, t) the interpolated exponentials."""
    nodes = interpolation(t, low, high)
    factors = np.exp([nodes.exponent(q, node) for node in nodes.nodes])
    return np.asarray(factors.T @ nodes.basis)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-6), (-1.0, 1.0), (0.0, 3.0), (7.0, 9.0)])
def test_interpolation_is_within_its_bound(low: float, high: float) -> None:
    t, q = np.linspace(-0.5, 1.5, 50), np.linspace(low, high, 20)

    exact = np.exp(np.outer(q, t))

    # the bound is relative to the middle of t's range
    middle = np.exp(q * 0.5)[:, None]
    assert np.abs((interpolated(t, q, low, high) - exact) / middle).max() < 1e-4 * np.exp(high)


def test_nodes_follow_from_the_spread_of_q_not_from_its_size() -> None:
    t = np.linspace(0.0, 1.0, 5)

    near, far, wide = (interpolation(t, *q) for q in ((-1.0, 1.0), (49.0, 51.0), (-50.0, 50.0)))

    assert len(near.nodes) == len(far.nodes) < 10
    assert len(wide.nodes) == MAX_NODES


def test_exponents_beyond_floats_stay_finite() -> None:
    t, q = np.array([0.0, 1.0]), np.array([5e5, 1e6])
    nodes = interpolation(t, 5e5, 1e6)

    exponents = [nodes.exponent(q, node) - q for node in nodes.nodes]  # less the largest, q·1

    assert np.isfinite(nodes.basis).all()
    assert max(e.max() for e in exponents) < 709
