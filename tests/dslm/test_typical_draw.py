"""The typical draw of random weights, which the band lies around, and the mean over draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dslm.curves import typical_over_mean
from tests.dslm.simulation import kernel_of, simulate
from tests.dslm.specs import predict, stack


def test_band_lies_around_the_typical_draw_of_a_collapsed_model(
    rng: np.random.Generator,
) -> None:
    d, draws = 64, 120
    decoder = stack(12, 4, d, placement="post", causal=False, activation="relu", std=0.12)
    token = rng.standard_normal(d)
    token -= token.mean()
    x = np.tile(token / np.sqrt(np.square(token).mean()), (1, 4, 1))
    g = rng.standard_normal((1, 1, d)) + rng.standard_normal((1, 4, d))
    seeded = replace(decoder, input_kernel=kernel_of(x), top_gradient_kernel=kernel_of(g))

    drawn = np.array([simulate(decoder, x, g, rng).grad_variance[0] for _ in range(draws)])

    prediction = predict(seeded, 1).backward
    middle = np.sqrt(prediction.variance_low[0] * prediction.variance_high[0])
    # one draw's logarithm scatters by 1.1, so the mean of 120 by 0.1, and the median lies 0.6
    # below the mean
    assert abs(np.log(middle) - np.log(drawn).mean()) < 0.35
    within = (prediction.variance_low[0] <= drawn) & (drawn <= prediction.variance_high[0])
    assert within.mean() > 0.85


def test_band_of_a_deep_collapsed_model_with_dropout_stays_of_one_decade() -> None:
    decoder = stack(96, 8, 256, placement="post", causal=False, std=0.06, p_drop=0.1)

    prediction = predict(decoder, 2).backward

    # a gain of its own for what tokens share: with the other's, an error grows with every layer
    assert np.all(np.log10(prediction.variance_high / prediction.variance_low) < 4 * 1.0)


def test_typical_draw_of_a_lognormal_is_its_median(rng: np.random.Generator) -> None:
    draws = np.exp(0.7 * rng.standard_normal(200_000))

    # 0.7 / sqrt(200,000) is 0.2 %
    ratio = np.median(draws) / draws.mean()
    assert abs(typical_over_mean(np.array([0.7]))[0] / ratio - 1) < 0.01


def test_the_mean_stays_within_the_band_of_any_scatter() -> None:
    log_sd = np.array([0.0, 0.1, 1.0, 10.0])

    assert np.all(typical_over_mean(log_sd) * np.exp(2 * log_sd) >= 1.0)
    assert typical_over_mean(log_sd)[0] == 1.0
