"""How token lengths scatter, and what that does to gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dslm import Kernel, Linear, Norm, Residual
from dslm.kernels.lengths import mean_inverse, post_ln_lengths, random_lengths
from dslm.kernels.linear import linear
from dslm.kernels.norm import centre
from tests.dslm.simulation import Floats, kernel_of, simulate
from tests.dslm.specs import kernel, predict, stack


def unit_tokens(rng: np.random.Generator, n: int, d: int) -> Floats:
    """Random tokens of mean square 1, exactly."""
    x = rng.standard_normal((n, d))
    return np.asarray(x / np.sqrt(np.square(x).mean(-1, keepdims=True)))


def test_scatter_of_a_residual_sum_matches_simulation(rng: np.random.Generator) -> None:
    d, inner, draws = 32, 48, 20_000
    residual = Residual(lam=0.9, beta=1.2)
    x = unit_tokens(rng, 1, d)[0]
    # |W_1 x|² and |W_2 a|² for Gaussian weights
    hidden = rng.chisquare(inner, draws) / inner
    f = rng.standard_normal((draws, d)) * np.sqrt(hidden)[:, None]

    squares = np.square(0.9 * x + 1.2 * f).mean(axis=1)
    unit_kernel = kernel(1, corr=1.0)
    summed = kernel(1, var=0.9**2 + 1.2**2, corr=1.0)
    half = post_ln_lengths(
        unit_kernel, unit_kernel, summed, residual=residual, inner=inner, d_model=d
    )

    assert squares.mean() == pytest.approx(summed.diagonal[0], rel=0.01)
    # a variance over 20,000 draws is known within about 1.5 %
    assert 2 * half.diagonal[0] == pytest.approx(np.var(squares / squares.mean()), rel=0.06)


@pytest.mark.parametrize("r", [0.0, 0.6, 0.95])
def test_mean_inverse_lengths_of_random_tokens_match_simulation(
    r: float, rng: np.random.Generator
) -> None:
    d, draws = 64, 40_000
    a, b = rng.standard_normal((2, draws, d))
    b = r * a + np.sqrt(1 - r**2) * b
    s, t = (np.sqrt(np.square(v).mean(axis=1)) for v in (a, b))

    single, pairs = mean_inverse(random_lengths(kernel(2, corr=r), d))

    # second order in 1/d is left out: 8/d² for the own term
    assert single[0] == pytest.approx(np.mean(1 / s**2), abs=3e-3)
    assert pairs[0, 1] == pytest.approx(np.mean(1 / (s * t)), abs=2e-3)


def test_lengths_of_wide_tokens_do_not_scatter() -> None:
    single, pairs = mean_inverse(random_lengths(kernel(3), 10**9))

    assert single == pytest.approx(1.0, abs=1e-8)
    assert pairs == pytest.approx(np.ones((3, 3)), abs=1e-8)


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_gradient_of_collapsed_narrow_post_ln_matches_simulation(
    norm: str, rng: np.random.Generator
) -> None:
    d, draws = 32, 500
    encoder = stack(6, 2, d, placement="post", norm=norm, activation="relu", std=d**-0.5)
    x = np.repeat(unit_tokens(rng, 1, d)[None], 2, axis=1)
    x = x - x.mean() if norm == "layernorm" else x
    g = rng.standard_normal((1, 2, d))
    seeded = replace(encoder, input_kernel=kernel_of(x), top_gradient_kernel=kernel_of(g))

    drawn = [simulate(encoder, x, g, rng).grad_variance[0] for _ in range(draws)]

    # one draw scatters by a factor, so the mean by 0.08; a divisor without scatter is 0.36 too low
    predicted = predict(seeded, 1).backward.variance[0]
    assert np.log(predicted / np.mean(drawn)) == pytest.approx(0.0, abs=0.2)


def test_centring_a_random_layers_output_matches_simulation(rng: np.random.Generator) -> None:
    d, draws = 16, 4000
    x = np.repeat(rng.standard_normal((1, 1, d)), 3, axis=1)
    weights = rng.standard_normal((draws, d, d)) / np.sqrt(d)
    y = np.einsum("ij,njk->nik", x[0], weights)
    centred = y - y.mean(axis=-1, keepdims=True)

    predicted = centre(linear(kernel_of(x), Linear(d, d, 1 / d)), Norm("layernorm"), d)

    # 4,000 draws of 15 squares: 0.6 %, where taking the mean off twice would cost 6 %
    assert predicted.diagonal[0] == pytest.approx(np.square(centred).mean(), rel=0.025)


def test_centring_takes_off_a_mean_that_all_features_share() -> None:
    ones = np.ones(2, dtype=np.int64)
    shifted = Kernel(np.full(2, 5.0), np.full((2, 2), 4.0), ones, mean=2.0)

    centred = centre(shifted, Norm("layernorm"), 10**9)

    assert centred.diagonal == pytest.approx(1.0)
    assert centred.off_diagonal[0, 1] == pytest.approx(0.0, abs=1e-7)
