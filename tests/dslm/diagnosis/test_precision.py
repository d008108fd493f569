"""Number formats against torch's own, and what is said to leave them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dslm.diagnosis import FORMATS, NumberFormat
from dslm.diagnosis.precision import FP16, loss_scale, outside

DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8 e4m3": torch.float8_e4m3fn,
    "fp8 e5m2": torch.float8_e5m2,
}
by_name = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


@by_name
def test_limits_are_torchs(fmt: NumberFormat) -> None:
    info = torch.finfo(DTYPES[fmt.name])
    below = torch.tensor([fmt.smallest_subnormal, 0.49 * fmt.smallest_subnormal])

    assert (fmt.largest, fmt.smallest_normal) == (info.max, info.smallest_normal)
    if fmt.name != "bf16":  # torch's CPU kernels may flush float32's own subnormals
        assert (below.to(DTYPES[fmt.name]).float() > 0).tolist() == [True, False]


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt.name != "bf16"], ids=str)
def test_half_of_all_entries_round_to_zero_at_the_flush_limit(fmt: NumberFormat) -> None:
    entries = np.random.default_rng(0).standard_normal(200_000) * fmt.flush_std
    rounded = torch.tensor(entries, dtype=torch.float32).to(DTYPES[fmt.name]).float()

    lost = float((rounded == 0).float().mean())

    assert lost == pytest.approx(0.5, abs=0.005)  # 4.5 standard errors of a share of 200,000


def test_layers_outside_are_named() -> None:
    layers = outside(np.array([1e5, 1.0, 1e-5, 1e-9, np.nan]), FP16)

    assert (layers.overflow, layers.imprecise, layers.flushed) == ((0,), (2, 3), (3,))


@given(low=st.floats(1e-30, 1e3), span=st.floats(1.0, 1e12))
def test_loss_scale_brings_every_layer_into_the_normal_range(low: float, span: float) -> None:
    std = np.array([low, low * span])

    scale = loss_scale(std, FP16)

    fits = FP16.overflow_std / FP16.smallest_normal
    if scale is None:  # rounding up to a power of two may cost a factor of 2
        assert span > fits / 2 or std[1] > FP16.overflow_std
    else:
        assert scale * std[0] >= FP16.smallest_normal or scale == 1
        assert scale * std[1] <= FP16.overflow_std


def test_no_loss_scale_lifts_a_zero() -> None:
    assert loss_scale(np.array([0.0, 1.0]), FP16) is None
