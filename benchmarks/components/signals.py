"""Gaussian signals of given moments, and what is measured on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dslm.components import GradMoments, Moments

Floats = NDArray[np.float64]
Errors = dict[str, float]

SCALES = (10**-0.5, 1.0, 10**0.5)
MEANS = (-10.0, 0.0, 10.0)
CORRELATIONS = (0.0, 1 / 3, 2 / 3)
ZERO = 1e-12


def standard(rng: np.random.Generator, n: int) -> Floats:
    """(3, n) normals whose sample means are 0, variances 1 and covariances 0.

    The part that two tokens share, then their own parts.
    """
    z = rng.standard_normal((3, n))
    z -= z.mean(axis=1, keepdims=True)
    return np.asarray(np.linalg.solve(np.linalg.cholesky(z @ z.T / n), z))


def pair(base: Floats, x: Moments | GradMoments) -> Floats:
    """Two tokens of the given moments from (3, ...) base normals: (2, ...)."""
    mean = x.mean if isinstance(x, Moments) else 0.0
    mixed = np.sqrt(x.corr_l) * base[:1] + np.sqrt(1 - x.corr_l) * base[1:]
    return np.asarray(mean + np.sqrt(x.var) * mixed)


def measured(x: Floats, mean: float = 0.0) -> Floats:
    """Mean, and variance and covariance between tokens around `mean`, of (tokens, ...)."""
    centred, n = x - mean, x.shape[0]
    square = np.square(centred).mean()
    total = np.square(centred.sum(axis=0)).mean()
    return np.array([x.mean(), square, (total / n - square) / (n - 1)])


def compare(x: Floats, x_theory: Moments, g: Floats, g_theory: GradMoments) -> Errors:
    """Errors in percent of the measured moment; of the standard deviation for a mean of zero.

    Covariances that the theory says are exactly zero have no relative error and are left out.
    """
    pairs = {
        "x mean": (x[0], x_theory.mean),
        "x var": (x[1], x_theory.var),
        "g var": (g[1], g_theory.var),
        "x cov": (x[2], x_theory.cov_l),
        "g cov": (g[2], g_theory.cov_l),
    }
    errors = {k: 100 * abs(m - p) / abs(m) for k, (m, p) in pairs.items() if abs(p) > ZERO}
    return {"x mean": 100 * abs(x[0]) / np.sqrt(x[1])} | errors


def moments_grid(means: tuple[float, ...] = (0.0,)) -> Iterator[tuple[Moments, GradMoments]]:
    grid = itertools.product(SCALES, means, CORRELATIONS, CORRELATIONS)
    for scale, mean, r, r_g in grid:
        yield Moments(mean, scale**2, r), GradMoments(1.0, r_g)
