"""The share of weights that rounding keeps as they are, against a count of all of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import batch, built, train_step

KEY = "/unchanged_weights/value"


def trained(
    folder: Path, dtype: torch.dtype, rate: float, *, frozen: bool = False
) -> tuple[nn.Module, list[torch.Tensor], RecordingTransport]:
    """A model after one watched step, its blocks' weights before it, and what was sent."""
    model, _ = built()
    model = model.to(dtype)
    if frozen:
        model.blocks[0].requires_grad_(requires_grad=False)
    optimizer: Optimizer = AdamW(model.parameters(), rate, weight_decay=0.0)
    agent, transport = recorded(model, folder, optimizer=optimizer)
    before = [p.detach().clone() for p in model.blocks.parameters()]
    train_step(model, optimizer, batch(0))
    agent.step()
    assert agent.close() and transport.health.failures == 0
    return model, before, transport


@pytest.mark.parametrize("rate", [1e-2, 1e-4, 1e-5, 1e-7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_share_is_that_of_all_weights_of_blocks(tmp_path: Path, dtype, rate: float):
    model, before, transport = trained(tmp_path, dtype, rate)

    now = list(model.blocks.parameters())
    pairs = list(zip(before, now, strict=True))
    count = sum(p.numel() for p in now)
    share = sum(int((a == b).sum()) for a, b in pairs) / count
    # At most 1,024 values stand for each of these tensors: 3 standard errors of the least of them.
    assert float(transport.series(KEY)[0]) == pytest.approx(share, abs=0.05)


def test_weights_of_full_precision_have_no_such_number(tmp_path: Path):
    _, _, transport = trained(tmp_path, torch.float32, 1e-7)

    assert not transport.holds(KEY, -1)


def test_weights_that_are_frozen_do_not_count(tmp_path: Path):
    _, _, transport = trained(tmp_path, torch.bfloat16, 0.1, frozen=True)

    assert float(transport.series(KEY)[0]) < 0.05


def test_a_step_without_an_update_has_none(tmp_path: Path):
    model, _ = built()
    model = model.to(torch.bfloat16)
    optimizer = SGD(model.parameters(), 1e-2)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    train_step(model, optimizer, batch(0))
    agent.step()
    agent.step()
    agent.close()

    assert not math.isnan(float(transport.series(KEY, 0)[0]))
    assert math.isnan(float(transport.series(KEY, 1)[0]))
