"""Softmax weights over n Gaussian scores: simulation, limits, bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dslm.duals.partition import Concentration, concentration

Floats = np.ndarray[Any, np.dtype[np.float64]]


def weights(scores: Floats) -> Floats:
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def of(s: float, n: float, d_head: float = np.inf) -> Concentration:
    return concentration(np.array(s), np.array(n), d_head)


@pytest.mark.parametrize(("s", "error"), [(0.3, 0.01), (1.6, 0.02), (10.0, 0.06)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_two_queries_share_what_simulation_says(
    s: float, error: float, share: float, rng: np.random.Generator
) -> None:
    n, rows = 24, 40_000
    z, other = (np.sqrt(s) * rng.standard_normal((rows, n)) for _ in range(2))
    a, b = weights(z), weights(share * z + np.sqrt(1 - share**2) * other)
    x = (a * b).sum(axis=1)
    energy = x - (a * a * b).sum(axis=1) - (a * b * b).sum(axis=1) + x**2

    overlaps = of(s, n)

    c = np.array(share * s)
    assert overlaps.overlap(c) == pytest.approx(x.mean(), rel=error)
    assert overlaps.overlap_slope(c) == pytest.approx(energy.mean(), rel=error)


def test_queries_of_random_length_attend_to_fewer_keys(rng: np.random.Generator) -> None:
    d_head, n, s = 16, 24, 4.0
    q, k = rng.standard_normal((40_000, d_head)), rng.standard_normal((n, d_head))
    lengths = np.square(q).mean(axis=1, keepdims=True)
    a = weights(np.sqrt(s * lengths) * rng.standard_normal((len(q), len(k))))

    assert of(s, n, d_head).self_overlap == pytest.approx(np.square(a).sum(axis=1).mean(), rel=0.01)


def test_cold_scores_share_evenly() -> None:
    overlaps = of(0.01, 50.0)
    assert overlaps.self_overlap == pytest.approx(np.exp(0.01) / (np.exp(0.01) + 49), rel=1e-4)
    assert overlaps.overlap(np.array(0.0)) == pytest.approx(1 / 50)


def test_the_hottest_scores_pick_one_key() -> None:
    assert of(400.0, 3.0).self_overlap > 0.9


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 400), st.floats(1.1, 1e5), st.floats(0, 1), st.floats(4, 1e3))
def test_shares_stay_possible(s: float, n: float, share: float, d_head: float) -> None:
    overlaps = of(s, n, d_head)
    c = np.array(share * float(overlaps.variance))

    assert 1 / n <= overlaps.self_overlap * (1 + 1e-3) <= 1 + 1e-3
    assert 0 <= overlaps.overlap(c) <= 1 + 1e-3
    assert overlaps.overlap_slope(c) >= 0
