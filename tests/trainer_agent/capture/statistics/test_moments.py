"""Moment sums against the definitions, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from trainer_agent.capture.statistics.finalise import moment_statistics
from trainer_agent.capture.statistics.moments import _on_device, moment_sums

shapes = st.tuples(st.integers(1, 4), st.integers(2, 9), st.integers(1, 33))
means = st.sampled_from([0.0, 0.3, -8.0, 1000.0])


def defined(x: NDArray[np.float64], mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Mean, variance and token correlation as DESIGN defines them, pair by pair."""
    real = [sequence[rows] for sequence, rows in zip(x, mask, strict=True)]
    entries = np.concatenate(real).ravel()
    products = [
        sequence[i] * sequence[j]
        for sequence in real
        for i in range(len(sequence))
        for j in range(len(sequence))
        if i != j
    ]
    mean, variance = entries.mean(), entries.var()
    pairs = np.mean(products) if products else np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        return mean, variance, (pairs - mean**2) / variance


def measured(sums: Tensor) -> tuple[float, float, float]:
    statistics = moment_statistics(sums.double().numpy()[None])
    return statistics["mean"][0], statistics["variance"][0], statistics["correlation"][0]


def draw(shape: tuple[int, int, int], mean: float, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(shape[0], 1, shape[2], generator=generator)
    individual = torch.randn(shape, generator=generator)
    return (mean + 0.6 * common + 0.8 * individual).to(dtype)


def assert_as_defined(
    statistics: tuple[float, float, float], x: Tensor, mask: NDArray[np.bool_]
) -> None:
    expected = defined(x.double().numpy(), mask)
    # float32 sums of a few hundred entries near 1: relative rounding is below 1e-5.
    assert statistics[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-5)
    assert statistics[1] == pytest.approx(expected[1], rel=1e-4, abs=1e-9)
    if expected[1] > 1e-6:
        assert statistics[2] == pytest.approx(expected[2], abs=1e-4, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(shapes, means, st.integers(0, 99), st.sampled_from([torch.float32, torch.bfloat16]))
def test_moments_equal_their_definition(
    shape: tuple[int, int, int], mean: float, seed: int, dtype: torch.dtype
) -> None:
    x = draw(shape, mean, seed, dtype)

    statistics = measured(moment_sums(x))

    assert_as_defined(statistics, x, np.ones(shape[:2], dtype=bool))


@settings(max_examples=60, deadline=None)
@given(shapes, means, st.integers(0, 99))
def test_moments_of_the_device_path_equal_their_definition(
    shape: tuple[int, int, int], mean: float, seed: int
) -> None:
    x = draw(shape, mean, seed, torch.float32)

    statistics = measured(_on_device(x, None))

    assert_as_defined(statistics, x, np.ones(shape[:2], dtype=bool))


@settings(max_examples=60, deadline=None)
@given(shapes, means, st.data())
def test_moments_leave_padding_out_whatever_it_holds(
    shape: tuple[int, int, int], mean: float, data: st.DataObject
) -> None:
    flat = st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    mask = np.array(data.draw(flat)).reshape(shape[:2])
    mask[0, 0] = True
    x = draw(shape, mean, 1, torch.float32)
    x[torch.from_numpy(~mask)] = float("nan")

    statistics = measured(moment_sums(x, torch.from_numpy(mask)))

    assert_as_defined(statistics, x, mask)


@pytest.mark.parametrize("mask", [None, torch.ones(2, 4, dtype=torch.long)])
def test_nonfinite_is_the_share_of_nan_and_inf_and_the_variance_is_nan(
    mask: Tensor | None,
) -> None:
    x = torch.randn(2, 4, 5)
    x[0, 1, 2], x[1, 3, 0] = float("nan"), float("inf")

    statistics = moment_statistics(moment_sums(x, mask).numpy()[None])

    assert statistics["nonfinite"][0] == pytest.approx(2 / 40)
    assert np.isnan(statistics["variance"][0])


def test_values_whose_squares_overflow_float32_are_finite_and_have_their_variance() -> None:
    x = torch.tensor([[[1e30, -1e30], [2e30, -2e30]]])

    statistics = moment_statistics(moment_sums(x).numpy()[None])

    assert statistics["nonfinite"][0] == 0
    assert statistics["variance"][0] == pytest.approx(2.5e60)


def test_sums_of_two_parts_add_up_to_the_sums_of_the_whole() -> None:
    x = torch.randn(6, 5, 7) + 3

    added = moment_sums(x[:2]) + moment_sums(x[2:])

    assert measured(added) == pytest.approx(measured(moment_sums(x)), rel=1e-5)


def test_one_token_has_no_correlation() -> None:
    assert np.isnan(measured(moment_sums(torch.randn(3, 1, 8)))[2])


def test_a_tensor_without_features_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens and features"):
        moment_sums(torch.randn(4))
