"""ReLU and GELU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

import dslm.components as theory
from benchmarks.components.signals import Errors, Floats, compare, measured, pair, standard
from dslm.components import GradMoments, Moments

SCALES = tuple(np.logspace(-0.5, 0.5, 21))
CORRELATIONS = (0.0, 0.2, 0.4, 0.6, 0.8)
PAIRS = 200_000


def relu(rng: np.random.Generator) -> Iterator[Errors]:
    def value_and_slope(u: Floats) -> tuple[Floats, Floats]:
        return np.maximum(u, 0), (u > 0).astype(np.float64)

    yield from pointwise(rng, value_and_slope, theory.relu, theory.relu_backward)


def gelu(rng: np.random.Generator) -> Iterator[Errors]:
    def value_and_slope(u: Floats) -> tuple[Floats, Floats]:
        phi = normal_distribution(u)
        return u * phi, phi + u * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)

    yield from pointwise(rng, value_and_slope, theory.gelu, theory.gelu_backward)


def pointwise(
    rng: np.random.Generator,
    function: Callable[[Floats], tuple[Floats, Floats]],
    forward: Callable[[Moments], Moments],
    backward: Callable[[GradMoments, Moments], GradMoments],
) -> Iterator[Errors]:
    """Fresh signals for each input; its five gradients share theirs."""
    for scale, r in itertools.product(SCALES, CORRELATIONS):
        x = Moments(0.0, scale**2, r)
        y, slope = function(pair(mirrored(standard(rng, PAIRS)), x))
        above = forward(x)
        outputs, slopes = measured(y, above.mean), products(slope)
        gradients = standard(rng, PAIRS)
        for r_g in CORRELATIONS:
            g = GradMoments(1.0, r_g)
            yield compare(outputs, above, gradient_moments(gradients, g, slopes), backward(g, x))


def mirrored(base: Floats) -> Floats:
    """(3, 8, n): every sign of every part, so that odd moments are exactly 0."""
    signs = np.array(list(itertools.product((1, -1), repeat=3))).T
    return np.asarray(signs[:, :, None] * base[:, None])


def products(slope: Floats) -> tuple[Floats, Floats]:
    """(2, n) squares of two tokens' (2, 8, n) slopes and (n,) products, averaged over the signs."""
    return np.square(slope).mean(axis=1), (slope[0] * slope[1]).mean(axis=0)


def gradient_moments(base: Floats, g: GradMoments, slopes: tuple[Floats, Floats]) -> Floats:
    """What `measured` gives for gradients times slopes, averaged over the signs of their parts."""
    squares, product = slopes
    shared, single = g.corr_l * np.square(base[0]), (1 - g.corr_l) * np.square(base[1:])
    return g.var * np.array([0.0, ((shared + single) * squares).mean(), (shared * product).mean()])


def normal_distribution(u: Floats) -> Floats:
    """Φ(u), interpolated on a fine grid; within 1e-6."""
    grid = np.linspace(-8.0, 8.0, 4001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    steps = (density[1:] + density[:-1]) / 2 * (grid[1] - grid[0])
    return np.asarray(np.interp(u, grid, np.concatenate([[0.0], np.cumsum(steps)])))
