"""The slow mean of a block's gain, and the band around it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dslm.ahead import WINDOW, expect
from dslm.ahead.slow_mean import WIDTH

FLOOR = 0.01
STEPS = 400


def noise(rng: np.random.Generator, sd: float, n: int = 40) -> np.ndarray:
    return sd * rng.standard_normal((STEPS, n))


def test_mean_of_a_constant_is_the_constant_and_the_band_its_floor():
    expected = expect(np.full((STEPS, 3), 0.7), np.arange(1, STEPS), floor=FLOOR)

    np.testing.assert_allclose(expected.mean, 0.7, rtol=1e-12)
    np.testing.assert_allclose(expected.reach[-1], WIDTH * FLOOR, rtol=0.01)


def test_band_holds_gaussian_scatter(rng: np.random.Generator):
    samples = noise(rng, 0.05)

    expected = expect(samples, np.arange(WINDOW, STEPS), floor=FLOOR)

    outside = np.abs(samples[WINDOW:] - expected.mean) > expected.reach
    # 14,000 samples; the band is near 5.4 standard deviations wide and scatters by a quarter, and
    # a Gaussian leaves 1 in 16,000 outside of 4
    assert outside.mean() < 1e-3
    assert np.median(expected.reach) < 7 * 0.05


def test_mean_follows_a_drift_and_the_band_widens_with_it(rng: np.random.Generator):
    drift = 0.02 * np.arange(STEPS)[:, None]
    samples = drift + noise(rng, 0.005)

    expected = expect(samples, np.arange(WINDOW, STEPS), floor=FLOOR)

    error = np.abs(samples[WINDOW:] - expected.mean)
    assert (error <= expected.reach).mean() > 0.999


def test_lasting_change_is_the_new_level_within_the_window(rng: np.random.Generator):
    samples = noise(rng, 0.02)
    samples[200:] += 2.0

    expected = expect(samples, np.arange(STEPS), floor=FLOOR)

    outside = np.abs(samples - expected.mean) > expected.reach
    assert outside[200].all() and outside[203].all()
    assert outside[200 + WINDOW :].mean() < 1e-3


def test_one_wild_sample_hardly_moves_the_mean(rng: np.random.Generator):
    samples = noise(rng, 0.02)
    wild = samples.copy()
    wild[200] += 50.0

    plain, moved = (expect(each, np.array([201]), floor=FLOOR) for each in (samples, wild))

    assert np.abs(moved.mean - plain.mean).max() < 0.05
    assert (moved.reach < 2 * plain.reach).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sample_that_is_not_finite_is_passed_over(rng: np.random.Generator, value: float):
    samples = noise(rng, 0.02)
    broken = np.insert(samples, 300, value, axis=0)

    plain = expect(samples, np.array([300]), floor=FLOOR)
    passed = expect(broken[WINDOW + 1 - WINDOW :], np.array([300]), floor=FLOOR)

    assert np.isfinite(passed.mean).all()
    np.testing.assert_allclose(passed.mean, plain.mean, atol=1e-4)


def test_theory_is_expected_before_the_first_sample_and_fades():
    theory = np.array([1.0, -1.0])
    samples = np.zeros((200, 2))

    expected = expect(samples, np.arange(200), floor=FLOOR, prior=theory)

    np.testing.assert_array_equal(expected.mean[0], theory)
    assert (np.abs(expected.mean[1:10]) <= np.abs(expected.mean[:9])).all()
    assert np.abs(expected.mean[WINDOW - 1]).max() < 0.01
    np.testing.assert_array_equal(expected.mean[WINDOW:], 0.0)


def test_nothing_is_expected_without_theory_and_samples():
    expected = expect(np.full((5, 2), np.nan), np.arange(5), floor=FLOOR)

    assert np.isnan(expected.mean).all() and np.isnan(expected.reach).all()
    assert (expected.samples == 0).all()


@given(st.integers(0, 150), st.integers(0, 60), st.integers(0, 5))
def test_only_the_window_before_a_row_counts(row: int, more: int, seed: int):
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((row + 1 + more, 3))
    start = max(0, row - WINDOW)

    at_once = expect(samples, np.array([row]), floor=FLOOR)
    alone = expect(samples[start : row + 1], np.array([row - start]), floor=FLOOR)

    np.testing.assert_array_equal(at_once.mean, alone.mean)
    np.testing.assert_array_equal(at_once.reach, alone.reach)


@given(st.floats(-3, 3), st.integers(0, 5))
def test_a_shift_of_all_samples_shifts_the_mean_alone(shift: float, seed: int):
    samples = 0.1 * np.random.default_rng(seed).standard_normal((100, 2))
    rows = np.arange(1, 100)

    plain = expect(samples, rows, floor=FLOOR)
    shifted = expect(samples + shift, rows, floor=FLOOR)

    np.testing.assert_allclose(shifted.mean, plain.mean + shift, atol=1e-9)
    np.testing.assert_allclose(shifted.reach, plain.reach, atol=1e-9)
