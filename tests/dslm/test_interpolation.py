"""Interpolation of exp(q·t), on which sums over keys are taken."""

from __future__ import annotations

import numpy as np
import pytest

from dslm.kernels.chebyshev import MAX_NODES, RELATIVE_ERROR, interpolation
from dslm.spec import Floats


def interpolated(t: Floats, q: Floats) -> Floats:
    """Return (q, t) the interpolated exponentials."""
    nodes = interpolation(t, q)
    return np.asarray(np.exp(nodes.exponents(q)).T @ nodes.basis)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-6), (-1.0, 1.0), (0.0, 3.0), (7.0, 9.0)])
def test_interpolation_is_within_its_bound(low: float, high: float) -> None:
    t, q = np.linspace(-0.5, 1.5, 50), np.linspace(low, high, 20)

    error = np.abs(interpolated(t, q) / np.exp(np.outer(q, t)) - 1)

    # the bound is relative to what e^((q-c)t) is in the middle of t's range
    assert error.max() < RELATIVE_ERROR * np.exp((high - low) / 2)


def test_a_large_q_costs_the_others_nothing() -> None:
    t, q = np.linspace(0.0, 1.0, 9), np.array([0.07, 0.08, 0.09, 60.0])

    np.testing.assert_allclose(interpolated(t, q)[:3], np.exp(np.outer(q[:3], t)), rtol=1e-9)


def test_nodes_follow_from_the_spread_of_q_not_from_its_size() -> None:
    t, spread = np.linspace(0.0, 1.0, 5), np.linspace(-1.0, 1.0, 9)

    near, far, wide = (interpolation(t, q) for q in (spread, 50 + spread, 50 * spread))

    assert len(near.nodes) == len(far.nodes) < 10
    assert len(wide.nodes) == MAX_NODES


def test_exponents_beyond_floats_stay_finite() -> None:
    t, q = np.array([0.0, 1.0]), np.array([5e5, 1e6])
    nodes = interpolation(t, q)

    exponents = nodes.exponents(q) - q  # less the largest, q·1

    assert np.isfinite(nodes.basis).all()
    assert exponents.max() < 709
