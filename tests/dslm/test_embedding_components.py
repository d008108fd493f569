"""Scalar embeddings: simulation, limiting case."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import dslm.components as theory
from dslm.components import Moments
from tests.dslm.signals import (
    X,
    energies,
    rows,
)


def test_embedding_correlation_is_the_shared_share() -> None:
    out = theory.embedding((1.0, 3.0), (0.5, 0.0))
    assert (out.var, out.corr_l) == pytest.approx((4.0, 0.125))


def test_embedding_matches_looked_up_tables(rng: np.random.Generator) -> None:
    n, d, ids_of = 400, 300, (5, 2)
    chance = [(rng.dirichlet(np.ones(k))) for k in ids_of]
    sums = []
    for _ in range(40):
        total = rng.standard_normal((n, d)) * 0.5  # positions: no two alike
        for p, std in zip(chance, (1.0, 0.7), strict=True):
            total += std * rng.standard_normal((len(p), d))[rng.choice(len(p), n, p=p)]
        sums.append(energies(total))

    same = [float(np.square(p).sum()) for p in chance]
    out = theory.embedding((1.0, 0.49, 0.25), (*same, 0.0))

    # 40 draws of 300 features and 400 ids
    assert (out.var, out.cov_l) == pytest.approx(tuple(np.mean(sums, axis=0)), rel=0.03)


def test_patch_embedding_matches_projected_patches(rng: np.random.Generator) -> None:
    n, d_patch, d = 16, 48, 64
    pixels = Moments(0.4, 0.8, 0.5)
    draws = []
    for _ in range(800):
        image = 0.4 + rows(rng, replace(pixels, mean=0.0), n, d_patch)
        patches = image @ rng.standard_normal((d_patch, d)) * 0.1
        stacked = np.concatenate([math.sqrt(0.3) * rng.standard_normal((1, d)), patches])
        draws.append(energies(stacked + math.sqrt(0.2) * rng.standard_normal((n + 1, d))))

    out = theory.patch_embedding(
        pixels, d_patch=d_patch, weight_var=0.01, n_patches=n, class_var=0.3, position_var=0.2
    )

    # 800 draws of 48 shared pixels
    assert (out.var, out.cov_l) == pytest.approx(tuple(np.mean(draws, axis=0)), rel=0.03)


def test_one_patch_and_its_class_token_have_nothing_in_common() -> None:
    out = theory.patch_embedding(X, d_patch=4, weight_var=0.5, n_patches=1, class_var=1.0)
    assert (out.var, out.corr_l) == pytest.approx(((4 * 0.5 * 2 + 1) / 2, 0.0))
