"""Bits of significands, against the values' own bits and in jobs of several precisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import LAYERS, batch, built, loss_of, train_step
from trainer_agent.capture.statistics.precision import SignificandSamples, significand_bits

TYPES = {torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def bits_of(*tensors: Tensor) -> list[float]:
    samples, table = SignificandSamples(), torch.zeros(len(tensors), 3, dtype=torch.float64)
    for row, x in enumerate(tensors):
        samples.add(row, x)
    samples.count_into(table)
    return significand_bits(table.numpy()).tolist()


@pytest.mark.parametrize("held_as", TYPES)
@pytest.mark.parametrize("computed_as", TYPES)
def test_bits_are_those_of_the_narrowest_type_on_the_way(
    held_as: torch.dtype, computed_as: torch.dtype
):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 70).to(computed_as).float().to(held_as)

    assert bits_of(x) == [min(TYPES[held_as], TYPES[computed_as])]


@given(
    features=st.integers(1, 200),
    scale=st.floats(1e-3, 1e3),
    share_of_zeros=st.floats(0.0, 0.9),
    seed=st.integers(0, 2**31),
)
def test_one_value_past_a_type_is_enough(
    features: int, scale: float, share_of_zeros: float, seed: int
):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(1, 1, features, generator=generator) * scale).half().float()
    x[torch.rand(x.shape, generator=generator) < share_of_zeros] = 0.0
    x[..., 0] = 1 / 3  # no float16 holds it

    assert bits_of(x) == [24]


def test_rows_of_micro_batches_add_up():
    samples, table = SignificandSamples(), torch.zeros(1, 3, dtype=torch.float64)
    samples.add(0, torch.zeros(1, 2, 8))
    samples.add(0, torch.randn(1, 2, 8).half())
    samples.count_into(table)

    assert significand_bits(table.numpy()).tolist() == [11]
    assert table[0, 0] == 64


def test_a_branch_through_half_precision_shows_and_no_other_does(tmp_path: Path):
    model, optimizer = built()

    def through_half(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        return output.half().float()

    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    agent.step(loss=train_step(model, optimizer, batch(1)))
    branch = model.get_submodule(feed_forward_of(agent, 1))
    branch.register_forward_hook(through_half, prepend=True)
    agent.step(loss=train_step(model, optimizer, batch(2)))
    agent.close()

    assert transport.series("decoder/feed_forward/bits", 0).tolist() == [24] * LAYERS
    expected = [11 if at == 1 else 24 for at in range(LAYERS)]
    assert transport.series("decoder/feed_forward/bits", 1).tolist() == expected
    assert transport.series("decoder/attention/bits", 1).tolist() == [24] * LAYERS


def test_autocast_branches_have_bfloat16s_bits(tmp_path: Path):
    model, _ = built()
    agent, transport = recorded(model, tmp_path)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_of(model, batch(1)).backward()
    agent.step()
    agent.close()

    assert transport.series("decoder/feed_forward/bits").tolist() == [8] * LAYERS


def test_a_branch_of_zeros_has_no_bits(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path)
    agent.step(loss=train_step(model, optimizer, batch(1)))
    branch = model.get_submodule(feed_forward_of(agent, 0))
    branch.register_forward_hook(lambda _m, _a, output: output * 0, prepend=True)

    agent.step(loss=train_step(model, optimizer, batch(2)))
    agent.close()

    bits = transport.series("decoder/feed_forward/bits")
    assert np.isnan(bits[0])
    assert bits[1:].tolist() == [24] * (LAYERS - 1)


def feed_forward_of(agent: object, block: int) -> str:
    path = agent._parts.hooks.plan.stacks[0].feed_forward[block]
    assert path is not None
    return path
