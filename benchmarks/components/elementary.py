"""Dense layers and dropout."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import dslm.components as theory
from benchmarks.components.signals import (
    MEANS,
    Errors,
    Floats,
    compare,
    measured,
    moments_grid,
    pair,
    standard,
)
from dslm.components import GradMoments, Moments

DROPS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
SIZES = (100, 316, 1000)
OUTPUTS = 500_000  # rows of fresh weights: draws of the weights times the width of the output
ENTRIES = 4_000_000  # draws of a token's weights and values: with the narrower width
PAIRS = 250_000


@dataclass(frozen=True)
class Parts:
    """Sums over all draws of a mapped signal's parts: those of `standard`, then a constant 1.

    Attributes:
        total: (4,) mean of each part's image.
        gram: (4, 4) mean of the products of two parts' images.
    """

    total: Floats
    gram: Floats

    def moments(self, x: Moments | GradMoments) -> Floats:
        """Return `measured` of the images of two tokens of moments `x`, which mix the parts."""
        mean = x.mean if isinstance(x, Moments) else 0.0
        shared, single = np.sqrt(x.corr_l * x.var), np.sqrt((1 - x.corr_l) * x.var)
        mix = np.array([[shared, single, 0.0, mean], [shared, 0.0, single, mean]])
        products = mix @ self.gram @ mix.T
        return np.array([(mix @ self.total).mean(), np.trace(products) / 2, products[0, 1]])


def linear(rng: np.random.Generator) -> Iterator[Errors]:
    """A dense layer maps the parts of its input one by one: each setting only mixes them."""
    for d_in, d_out in itertools.product(SIZES, SIZES):
        forward, backward = mapped_parts(rng, d_in, d_out)
        for x, g in moments_grid(MEANS):
            above = theory.linear(x, d_in=d_in, weight_var=1 / d_in)
            below = theory.linear_backward(g, d_out=d_out, weight_var=1 / d_in)
            yield compare(forward.moments(x), above, backward.moments(g), below)


def mapped_parts(rng: np.random.Generator, d_in: int, d_out: int) -> tuple[Parts, Parts]:
    """Images under W, then under Wᵀ, several tokens for each draw of the weights."""
    draws = OUTPUTS // d_out
    tokens = -(-ENTRIES // (draws * min(d_in, d_out)))
    images = []
    for _ in range(draws):
        w = rng.standard_normal((d_in, d_out), dtype=np.float32) / np.float32(np.sqrt(d_in))
        images.append(one_image(rng, w, tokens) + one_image(rng, w.T, tokens))
    totals, grams, back_totals, back_grams = (np.mean(f, axis=0) for f in zip(*images, strict=True))
    return Parts(totals, grams), Parts(back_totals, back_grams)


def one_image(rng: np.random.Generator, w: Floats, tokens: int) -> tuple[Floats, Floats]:
    """Mean image and mean product of the parts' images."""
    parts = rng.standard_normal((3 * tokens, len(w)), dtype=np.float32) @ w
    constant = np.broadcast_to(w.sum(axis=0), (1, tokens, w.shape[1]))
    flat = np.concatenate([parts.reshape(3, tokens, -1), constant]).reshape(4, -1)
    return flat.mean(axis=1).astype(np.float64), (flat @ flat.T / flat.shape[1]).astype(np.float64)


def dropout(rng: np.random.Generator) -> Iterator[Errors]:
    """Each pair of tokens has all four outcomes of its two masks, weighted by their probability.

    Drawn masks would hide a covariance of 0.1 behind the scatter of a mean of 10.
    """
    u, h = standard(rng, PAIRS), standard(rng, PAIRS)
    for p in DROPS:
        for x, g in moments_grid(MEANS):
            above, below = theory.dropout(x, p_drop=p), theory.dropout_backward(g, p_drop=p)
            y = over_masks(pair(u, x), p, above.mean)
            yield compare(y, above, over_masks(pair(h, g), p, 0.0), below)


def over_masks(x: Floats, p: float, mean: float) -> Floats:
    """What `measured` gives for (2, n) tokens after dropout, averaged over its two masks."""
    outcomes = itertools.product(((0.0, p), (1 / (1 - p), 1 - p)), repeat=2)
    weighted = [
        first_chance * second_chance * measured(x * np.array([[first], [second]]), mean)
        for (first, first_chance), (second, second_chance) in outcomes
    ]
    return np.asarray(np.sum(weighted, axis=0))
