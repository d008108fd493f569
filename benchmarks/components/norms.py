"""LayerNorm."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

import dslm.components as theory
from benchmarks.components.signals import (
    SCALES,
    Errors,
    compare,
    measured,
    pair,
    standard,
)
from dslm.components import GradMoments, Moments

PAIRS = 500_000


def layer_norm(rng: np.random.Generator) -> Iterator[Errors]:
    for d in (100, 316, 1000):
        shape = (3, PAIRS // 3 // d, d)
        base, base_g = (standard(rng, shape[1] * d).reshape(shape) for _ in range(2))
        for scale, r in itertools.product(SCALES, np.arange(0, 1, 0.125)):
            x = Moments(0.0, scale**2, float(r))
            u = pair(base, x)
            centred = u - u.mean(axis=-1, keepdims=True)
            s = centred.std(axis=-1, keepdims=True)
            y = centred / s
            above, outputs = theory.layer_norm(x, d_model=d), measured(y)
            for r_g in np.arange(0, 1, 0.125):
                g = GradMoments(1.0, float(r_g))
                h = pair(base_g, g)
                removed = h.mean(axis=-1, keepdims=True) + y * (h * y).mean(axis=-1, keepdims=True)
                below = theory.layer_norm_backward(g, x, d_model=d)
                yield compare(outputs, above, measured((h - removed) / s), below)
