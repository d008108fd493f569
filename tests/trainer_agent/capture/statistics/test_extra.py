"""Quantities beyond the moments, each against a direct computation in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import LAYERS, batch, built, loss_of
from trainer_agent.capture.statistics import extra
from trainer_agent.capture.statistics.accumulator import Accumulator
from trainer_agent.capture.statistics.extra import extra_sums, rank_sums, token_gram
from trainer_agent.capture.statistics.finalise import extra_statistics, moment_statistics
from trainer_agent.capture.statistics.moments import moment_row
from trainer_agent.model.plan import Plan, StackPlan
from trainer_agent.model.sites import QUANTITIES, RANGES, RequestedSites

CPU = torch.device("cpu")
DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def plan(quantities: tuple[str, ...] = QUANTITIES) -> Plan:
    return Plan((StackPlan("decoder", ("0",), (None,), (None,)),), RequestedSites(quantities))


def measured(batches: list[Tensor], masks: list[Tensor | None] | None = None) -> dict[str, float]:
    """What a frame would say of one place that saw these tensors, one after the other."""
    accumulator = Accumulator(plan(), CPU)
    for x, mask in zip(batches, masks or [None] * len(batches), strict=True):
        row = moment_row(x, mask)
        accumulator.add(0, row)
        accumulator.add_extra(0, *extra_sums(x, mask, row, QUANTITIES))
        accumulator.set_gram(0, token_gram(x, mask, accumulator.wide))
    sums = accumulator.take()()
    statistics = moment_statistics(sums.moments[:1])
    statistics |= extra_statistics(sums.moments[:1], sums.extra[:1], sums.extra_max[:1])
    return {name: float(value[0]) for name, value in statistics.items()}


def kurtosis(x: Tensor) -> float:
    centred = x.double() - x.double().mean()
    return float((centred**4).mean() / (centred**2).mean() ** 2)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_kurtosis_absmax_and_rms_equal_a_direct_computation(scale: float, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 7, 16, generator=generator) ** 3 * scale).to(dtype)

    statistics = measured([x])

    # powers are taken in float32: 2,000 roundings of 1e-7 stay far below this
    assert statistics["kurtosis"] == pytest.approx(kurtosis(x), rel=1e-5)
    assert statistics["absmax"] == pytest.approx(float(x.double().abs().max()), rel=1e-6)
    assert statistics["rms"] == pytest.approx(float(x.double().square().mean().sqrt()), rel=1e-6)


def test_kurtosis_of_bf16_inputs_of_large_mean_is_exact():
    generator = torch.Generator().manual_seed(0)
    x = (200 + torch.randn(4, 32, 64, generator=generator)).bfloat16()

    # moved from the mean to zero and back in float64: (200)^4 · 1e-16 is 2e-7
    assert measured([x])["kurtosis"] == pytest.approx(kurtosis(x), rel=1e-5)


def test_a_gaussian_has_a_kurtosis_of_three():
    x = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(0))

    # standard error sqrt(24 / 262,144)
    assert measured([x])["kurtosis"] == pytest.approx(3.0, abs=0.04)


def test_micro_batches_of_different_means_add_up():
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(2, 5, 8, generator=generator) + mean for mean in (-3.0, 0.0, 40.0)]
    parts[1][0, 0, :4] = 0.0
    together = torch.cat(parts)

    statistics = measured(parts)

    assert statistics["kurtosis"] == pytest.approx(kurtosis(together), rel=1e-5)
    assert statistics["zeros"] == pytest.approx(float((together == 0).double().mean()))
    assert statistics["absmax"] == pytest.approx(float(together.abs().max()))


def test_padding_has_no_part_in_any_quantity():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 6, 8, generator=generator)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    x[:, 4:] = 1e30
    alone = x[:, :4]

    statistics, expected = measured([x], [mask]), measured([alone])

    assert statistics == pytest.approx(expected, rel=1e-5, nan_ok=True)


# Ties and both sides of every limit, and some values in between.
EDGES = [
    edge * factor
    for form in extra._FORMATS.values()
    for edge in (form.too_large, form.too_small)
    for factor in (1 - 2**-20, 1.0, 1 + 2**-20)
]
values = st.sampled_from([*EDGES, 0.0, 1.0, 1e-3, 448.0, 65_504.0]) | st.floats(
    width=32, allow_nan=False, allow_infinity=False
)


def lost(x: Tensor, form: str, end: str) -> float:
    """The share that torch's own rounding to a format loses."""
    rounded = x.to(DTYPES[form]).float()
    if end == "underflow":
        return float(((rounded == 0) & (x != 0)).double().mean())
    # e4m3 has no infinity: torch gives its largest number, 448, which is then more than half a
    # unit in the last place (16) away
    clipped = (x.double().abs() - rounded.double().abs() > 16) & (form == "fp8_e4m3")
    return float((~torch.isfinite(rounded) | clipped).double().mean())


@given(st.lists(values, min_size=1, max_size=24))
def test_ranges_are_what_rounding_to_each_format_loses(entries: list[float]):
    x = torch.tensor(entries, dtype=torch.float32).view(1, 1, -1)

    statistics = measured([x])

    for name in RANGES:
        form, _, end = name.rpartition("_")
        assert statistics[name] == pytest.approx(lost(x, form, end), abs=1e-12), name


def test_large_tensors_are_searched_for_small_values_by_sample():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(8, 128, 256, generator=generator) * 2.0**-10
    x[3, 5, 7] = 1e5
    assert x.numel() > 2 * extra.SAMPLED_VALUES

    statistics = measured([x])

    small = lost(x, "fp8_e4m3", "underflow")
    # a share p of 32,768 values: standard error sqrt(p (1 - p) / 32,768)
    error = (small * (1 - small) / extra.SAMPLED_VALUES) ** 0.5
    assert statistics["fp8_e4m3_underflow"] == pytest.approx(small, abs=4 * error)
    assert statistics["fp16_overflow"] == pytest.approx(1 / x.numel())  # of all values


def test_nan_and_inf_are_data():
    x = torch.ones(1, 2, 4)
    x[0, 0, 0], x[0, 1, 0] = torch.inf, torch.nan

    statistics = measured([x])

    assert np.isnan(statistics["kurtosis"]) and np.isnan(statistics["effective_rank"])
    assert statistics["fp16_overflow"] == pytest.approx(1 / 8)


def ranks(tokens: Tensor) -> tuple[float, float]:
    energy = torch.linalg.svdvals(tokens.double()) ** 2
    shares = energy / energy.sum()
    entropy = -(shares * shares.log()).nan_to_num().sum()
    return float(entropy.exp()), float(energy.sum() / energy.max())


@pytest.mark.parametrize("seq", [5, 64, 150])
def test_ranks_are_those_of_the_first_sequences_tokens(seq: int):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, seq, 24, generator=generator) + 0.5
    tokens = x[0, :: -(-seq // 64)]
    assert len(tokens) <= 64

    statistics = measured([x])

    assert (statistics["effective_rank"], statistics["stable_rank"]) == pytest.approx(
        ranks(tokens), rel=1e-9
    )


def test_equal_tokens_have_rank_one_and_orthogonal_ones_their_number():
    collapsed = torch.ones(1, 8, 16)
    spread = torch.eye(8, 16).unsqueeze(0)

    assert measured([collapsed])["effective_rank"] == pytest.approx(1.0, abs=1e-6)
    assert measured([collapsed])["stable_rank"] == pytest.approx(1.0, abs=1e-6)
    assert measured([spread])["effective_rank"] == pytest.approx(8.0)
    assert measured([spread])["stable_rank"] == pytest.approx(8.0)


def test_a_place_that_saw_nothing_has_no_rank():
    assert (rank_sums(np.zeros((2, 64, 64))) == 0).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_every_quantity_of_stream_and_gradient_equals_a_direct_computation(
    tmp_path: Path, autocast: bool
):
    model, _ = built()
    streams: list[Tensor] = []

    def keep(_: object, __: object, out: Tensor) -> None:
        if out.requires_grad:  # the agent's own look at the architecture takes none
            out.retain_grad()
            streams.append(out)

    handle = model.blocks[-1].register_forward_hook(keep)
    agent, transport = recorded(model, tmp_path, quantities="all")

    batches = [batch(1), batch(2)]
    for ids in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(model, ids)
        loss.backward()
    agent.step()
    agent.close()
    handle.remove()

    assert transport.health.failures == 0
    for site, tensors in (("stream", streams), ("stream_gradient", [x.grad for x in streams])):
        expected = measured([x.detach() for x in tensors if x is not None])
        for quantity in QUANTITIES:
            series = transport.series(f"decoder/{site}/{quantity}")
            assert len(series) == LAYERS + 1
            # frames are float32
            assert series[-1] == pytest.approx(expected[quantity], rel=1e-5, nan_ok=True), quantity


def test_quantities_that_nobody_asked_for_are_not_there(tmp_path: Path):
    model, _ = built()
    agent, transport = recorded(model, tmp_path)

    loss_of(model, batch(1)).backward()
    agent.step()
    agent.close()

    declared = {series.quantity for series in transport.declarations[-1].layout if series.stack}
    assert declared == {"mean", "variance", "correlation", "nonfinite", "bits", "max", "entropy"}
