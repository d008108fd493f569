"""Fitted laws against curves whose law is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dslm.diagnosis import fit_growth
from dslm.diagnosis.growth import fit_below_top

LAYERS = np.arange(25.0)
SHAPES = {
    "constant": np.ones(25),
    "linear": 1 + 0.4 * LAYERS,
    "hyperbolic": 1 / (1 + 0.4 * LAYERS),
    "exponential": np.exp(-0.3 * LAYERS),
}


@pytest.mark.parametrize("law", SHAPES)
@given(size=st.floats(1e-20, 1e20), seed=st.integers(0, 1000))
def test_law_is_found_under_noise_and_at_any_scale(law: str, size: float, seed: int) -> None:
    noise = np.exp(0.02 * np.random.default_rng(seed).standard_normal(25))

    fit = fit_growth(size * SHAPES[law] * noise)

    assert fit is not None and fit.fits
    if law == "constant":  # noise may look like a slope, and then a slight one
        first, last = fit.at(np.array([1.0, 24.0]))
        assert abs(np.log(last / first)) < 0.1  # 4.5 standard errors of 2 % noise on 24 values
    else:
        assert fit.law == law


@given(rate=st.floats(-2.0, 2.0).filter(lambda b: abs(b) > 0.05))
def test_exponential_rate_is_the_factor_per_layer(rate: float) -> None:
    fit = fit_growth(3.0 * np.exp(rate * LAYERS))

    # slower ones are 1 + bl within 1 % over 24 layers, and may be called so
    assert fit is not None and fit.law == "exponential"
    assert fit.factor == pytest.approx(np.exp(rate))
    assert fit.start == pytest.approx(3.0)


@given(rate=st.floats(0.05, 50.0))
def test_rates_of_the_other_laws_are_recovered(rate: float) -> None:
    linear, hyperbolic = fit_growth(1 + rate * LAYERS), fit_growth(1 / (1 + rate * LAYERS))

    # up to 50 per layer, 1 + bl differs from bl by 2 % at layer 1: b is found to its digits
    assert linear is not None and hyperbolic is not None
    assert linear.rate == pytest.approx(rate, rel=1e-3)
    assert hyperbolic.rate == pytest.approx(rate, rel=1e-3)


def test_input_of_another_scale_does_not_count() -> None:
    fit = fit_growth(np.r_[4e-4, np.ones(12)])

    assert fit is not None and fit.law == "constant"


def test_curve_of_no_law_does_not_fit() -> None:
    fit = fit_growth(np.r_[1.0, np.exp(np.abs(np.linspace(-3, 3, 24)))])

    assert fit is not None and not fit.fits


def test_two_layers_show_no_law() -> None:
    assert fit_growth(np.array([1.0, 2.0, 3.0])) is None
    assert fit_growth(np.array([1.0, 1.0, np.nan, np.inf, 2.0])) is None


def test_law_below_a_steep_top_is_fitted_with_where_it_ends() -> None:
    layers = np.arange(49.0)
    curve = np.exp(0.02 * layers) * np.exp(np.maximum(layers - 40, 0))

    below = fit_below_top(curve)

    assert below is not None and below.growth.law == "exponential"
    assert below.growth.rate == pytest.approx(0.02, rel=0.25)  # one steep layer is let in
    assert below.top_layers in (7, 8)


def test_no_law_below_the_top_of_a_curve_without_one() -> None:
    assert fit_below_top(np.exp(np.random.default_rng(0).standard_normal(49))) is None
