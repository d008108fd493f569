"""Curves one block ahead, innovations, and the departures that they show."""

from __future__ import annotations

import numpy as np
import pytest

from dslm.ahead import QUANTITIES, WINDOW, predict_ahead
from dslm.ahead.departures import bands_beyond, departures

STEPS, BLOCKS = 120, 8
ROWS = np.arange(STEPS)


def gains(rng: np.random.Generator) -> np.ndarray:
    return np.linspace(0.1, 0.5, BLOCKS) + 0.02 * rng.standard_normal((STEPS, BLOCKS))


def curve(steps: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((STEPS, 1)), np.cumsum(steps, axis=1)], axis=1)


def test_each_layer_follows_from_the_measured_one_below(rng: np.random.Generator):
    values = np.exp(curve(gains(rng)))

    ahead = predict_ahead("variance", values, ROWS)

    np.testing.assert_array_equal(ahead.curve[:, 0], values[:, 0])
    np.testing.assert_allclose(
        ahead.innovation[1:], np.log2(values[1:, 1:] / ahead.curve[1:, 1:]), atol=1e-12
    )
    np.testing.assert_allclose(
        np.log2(ahead.high[1:, 1:] / ahead.curve[1:, 1:]), ahead.innovation_high[1:], atol=1e-12
    )


def test_each_gradient_follows_from_the_measured_one_above(rng: np.random.Generator):
    values = np.exp(-curve(gains(rng)))

    ahead = predict_ahead("gradient", values, ROWS)

    np.testing.assert_array_equal(ahead.curve[:, -1], values[:, -1])
    np.testing.assert_allclose(
        ahead.innovation[1:], np.log2(values[1:, :-1] / ahead.curve[1:, :-1]), atol=1e-12
    )


def test_constant_gains_leave_no_innovation_and_one_reference():
    values = np.exp(curve(np.full((STEPS, BLOCKS), 0.3)))

    for name, measured in (("variance", values), ("gradient", values[:, ::-1])):
        ahead = predict_ahead(name, measured, ROWS[1:])

        np.testing.assert_allclose(ahead.innovation, 0.0, atol=1e-12)
        np.testing.assert_allclose(ahead.reference, measured[1:], rtol=1e-12)
        np.testing.assert_allclose(ahead.curve, measured[1:], rtol=1e-12)


def test_correlation_differs_by_a_difference(rng: np.random.Generator):
    values = 0.1 + curve(0.05 + 0.004 * rng.standard_normal((STEPS, BLOCKS)))

    ahead = predict_ahead("correlation", values, ROWS)

    np.testing.assert_allclose(ahead.innovation[1:], (values - ahead.curve)[1:, 1:], atol=1e-12)


def test_before_the_first_sample_the_gains_are_theorys():
    theory = np.exp(0.2 * np.arange(BLOCKS + 1.0))
    measured = np.linspace(1.0, 5.0, BLOCKS + 1)[None]

    ahead = predict_ahead("variance", measured, np.array([0]), theory=7 * theory)

    np.testing.assert_allclose(ahead.curve[0, 1:], measured[0, :-1] * np.exp(0.2))


def test_miss_of_one_block_is_not_carried_on(rng: np.random.Generator):
    steps = gains(rng)
    steps[-1, 3] += np.log(36.0)

    ahead = predict_ahead("variance", np.exp(curve(steps)), ROWS)

    assert ahead.innovation[-1, 3] == pytest.approx(np.log2(36.0), abs=0.15)
    assert ahead.outside[-1].tolist() == [block == 3 for block in range(BLOCKS)]


def test_block_that_puts_out_nan_departs_and_those_below_are_judged(rng: np.random.Generator):
    values = np.exp(curve(gains(rng)))
    values[100:, 4:] = np.nan

    ahead = predict_ahead("variance", values, ROWS)

    assert np.isfinite(ahead.innovation[100:, :3]).all()
    assert np.isnan(ahead.innovation[100:, 3:]).all()
    (departure,) = departures({"variance": ahead})
    assert (departure.row, departure.block) == (100, 3)


def test_block_is_named_though_all_above_it_move_too(rng: np.random.Generator):
    steps = gains(rng)
    steps[90:, 2] += 1.0
    steps[90:, 3:] -= 0.4
    forward = predict_ahead("variance", np.exp(curve(steps)), ROWS)
    backward = predict_ahead("gradient", np.exp(-curve(steps)), ROWS)

    (departure,) = departures({"gradient": backward, "variance": forward})

    assert (departure.row, departure.block, departure.quantity) == (90, 2, "variance")


def test_fault_that_only_the_gradient_shows_lies_in_the_highest_block(rng: np.random.Generator):
    steps = gains(rng)
    forward = predict_ahead("variance", np.exp(curve(steps)), ROWS)
    steps[90:, 2:6] += 1.0
    backward = predict_ahead("gradient", np.exp(-curve(steps)), ROWS)

    (departure,) = departures({"gradient": backward, "variance": forward})

    assert (departure.row, departure.block, departure.quantity) == (90, 5, "gradient")


def test_frozen_block_is_named_by_its_updates(rng: np.random.Generator):
    ratio = 1e-3 * np.exp(0.05 * rng.standard_normal((STEPS, BLOCKS)))
    ratio *= np.linspace(1.0, 0.1, STEPS)[:, None]  # a schedule moves all blocks alike
    ratio[90:, 6] = 0.0

    (departure,) = departures({"updates": predict_ahead("updates", ratio, ROWS)})

    assert (departure.row, departure.block, departure.quantity) == (90, 6, "updates")


def test_move_of_the_input_is_no_blocks(rng: np.random.Generator):
    values = np.exp(curve(gains(rng)))
    values[90:] *= 4.0
    values[90:, 1:] *= 4.0

    (departure,) = departures({"variance": predict_ahead("variance", values, ROWS)})

    assert (departure.row, departure.block) == (90, None)


def test_healthy_scatter_is_no_departure(rng: np.random.Generator):
    steps = gains(rng)
    ahead = {
        "variance": predict_ahead("variance", np.exp(curve(steps)), ROWS),
        "gradient": predict_ahead("gradient", np.exp(-curve(steps)), ROWS),
    }

    assert departures(ahead) == []


def calm_at_first(late: float) -> np.ndarray:
    """Logits that scatter by 5 % while the rate warms up, and of which block 5 then falls."""
    rng = np.random.default_rng(0)
    logs = 0.05 * rng.standard_normal((STEPS, BLOCKS))
    logs[16:, 5] -= late
    return np.exp(logs)


def test_block_that_leaves_a_band_of_few_samples_by_little_is_not_named():
    values = calm_at_first(0.4)

    ahead = predict_ahead("attention_logits", values, ROWS)

    assert ahead.outside[16, 5] and ahead.lasting[16, 5]
    assert departures({"attention_logits": ahead}) == []


def test_block_that_leaves_a_band_of_few_samples_by_far_is_named():
    ahead = predict_ahead("attention_logits", calm_at_first(2.0), ROWS)

    (departure,) = departures({"attention_logits": ahead})

    assert (departure.row, departure.block) == (16, 5)


def test_bands_of_more_samples_are_left_by_less():
    beyond = bands_beyond(np.arange(0.0, 2 * WINDOW))

    assert np.isinf(beyond[:12]).all() and (beyond[WINDOW:] == 1).all()
    assert (np.diff(beyond[12 : WINDOW + 1]) < 0).all()


@pytest.mark.parametrize("name", QUANTITIES)
def test_zero_is_a_measurement(rng: np.random.Generator, name: str):
    n = BLOCKS + abs(QUANTITIES[name].direction)
    values = np.exp(0.01 * rng.standard_normal((STEPS, n)))
    values[-1, 4] = 0.0

    ahead = predict_ahead(name, values, ROWS)

    assert np.isfinite(ahead.innovation[1:]).all()
    assert ahead.outside[-1].any()
