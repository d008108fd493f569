"""Gaussian tokens of given moments, and what is measured on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dslm.components import GradMoments, Moments

Floats = np.ndarray[Any, np.dtype[np.float64]]
X = Moments(mean=0.0, var=2.0, corr_l=0.4)
G = GradMoments(var=0.5, corr_l=0.3)


def pair(rng: np.random.Generator, x: Moments | GradMoments, n: int = 1_000_000) -> Floats:
    """(2, n): one feature of two different tokens, n times."""
    shared, single = rng.standard_normal(n), rng.standard_normal((2, n))
    mean = x.mean if isinstance(x, Moments) else 0.0
    single *= math.sqrt(1 - x.corr_l)
    return np.asarray(mean + math.sqrt(x.var) * (math.sqrt(x.corr_l) * shared + single))


def simulated(y: Floats) -> tuple[float, float, float]:
    """Mean, variance and correlation of (2, n)."""
    mean, var = y.mean(), y.var()
    return float(mean), float(var), float(((y[0] - mean) * (y[1] - mean)).mean() / var)


def grad_simulated(g: Floats) -> tuple[float, float]:
    var = float(np.square(g).mean())
    return var, float((g[0] * g[1]).mean() / var)


def as_tuple(x: Moments) -> tuple[float, float, float]:
    return x.mean, x.var, x.corr_l


def energies(y: Floats) -> tuple[float, float]:
    """Mean of y_i·y_i/d and of y_i·y_j/d, i≠j, of (n, d)."""
    n, mean_square = len(y), float(np.square(y).mean())
    return mean_square, float((np.square(y.sum(axis=0)).mean() / n - mean_square) / (n - 1))


def rows(rng: np.random.Generator, m: Moments | GradMoments, n: int, d: int) -> Floats:
    shared, single = rng.standard_normal((1, d)), rng.standard_normal((n, d))
    mixed = math.sqrt(m.corr_l) * shared + math.sqrt(1 - m.corr_l) * single
    return np.asarray(math.sqrt(m.var) * mixed)
