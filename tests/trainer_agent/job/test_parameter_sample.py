"""Evenly spread values of parameters, against all their values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import LAYERS, batch, built, loss_of, train_step
from trainer_agent.job.parameter_sample import SAMPLED_VALUES, sample_of, stride

CPU = torch.device("cpu")


def rms(tensors: list[Tensor]) -> float:
    flat = torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])
    return float(flat.square().mean().sqrt())


@given(shape=st.lists(st.integers(1, 5000), min_size=1, max_size=3))
def test_the_sample_keeps_to_its_limit_and_meets_every_column(shape: list[int]):
    step, size, columns = stride(shape), math.prod(shape), shape[-1]

    n = -(-size // step)
    assert n <= SAMPLED_VALUES
    assert step == 1 or math.gcd(step, columns) == 1


def test_few_values_are_all_read():
    parameters = [torch.randn(7, 11), torch.randn(30), torch.randn(())]
    sample = sample_of(parameters, [0, 1, 2], CPU)

    squares = {
        row: float(values.square().sum())
        for group in sample.groups
        for row, values in zip(group.rows.tolist(), group.values(), strict=True)
    }
    exact = [float(parameter.square().sum()) for parameter in parameters]
    assert [squares[row] for row in range(3)] == pytest.approx(exact, rel=1e-6)


def test_views_follow_updates_and_notice_new_memory():
    parameter = nn.Parameter(torch.randn(64, 64))
    sample = sample_of([parameter], [0], CPU)
    (group,) = sample.groups
    before = group.values()

    with torch.no_grad():
        parameter.mul_(2)
    assert sample.still_shows([parameter])
    assert torch.equal(group.values(), 2 * before)

    parameter.data = parameter.data.clone()
    assert not sample.still_shows([parameter])


def test_what_is_not_contiguous_is_sampled_anew_each_time():
    parameter = torch.randn(8, 8).t()

    assert not sample_of([parameter], [0], CPU).still_shows([parameter])


def test_whole_numbers_and_empty_shards_are_left_out():
    sample = sample_of(
        [torch.zeros(4, dtype=torch.int8), torch.zeros(0), torch.ones(4)], [0, 1, 2], CPU
    )

    assert [group.rows.tolist() for group in sample.groups] == [[2]]


def test_an_optimizer_brings_weights_and_updates(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    old = [[p.detach().clone() for p in block.parameters()] for block in model.blocks]

    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()

    new = [list(block.parameters()) for block in model.blocks]
    ratios = [
        rms([p - o for p, o in zip(new[at], old[at], strict=True)]) / rms(old[at])
        for at in range(LAYERS)
    ]
    # a block's large matrices stand by 1,024 values each: 1 / sqrt(2 · 1,024) = 2.2 % a matrix
    assert transport.series("decoder/weights/rms") == pytest.approx(list(map(rms, old)), rel=0.07)
    assert transport.series("decoder/updates/ratio") == pytest.approx(ratios, rel=0.07)


def test_without_an_optimizer_a_frame_has_no_parameters(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path)

    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()

    sites = {series.site for series in transport.declarations[-1].layout}
    assert not sites & {"weights", "updates"}


def test_weights_that_were_swapped_are_read_where_they_are(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    agent.step(loss=train_step(model, optimizer, batch(1)))
    for parameter in model.parameters():  # as an average of weights is put in place of them
        parameter.data = 3 * parameter.data

    agent.step(loss=train_step(model, optimizer, batch(2)))
    agent.close()

    first, second = (transport.series("decoder/weights/rms", at) for at in (0, 1))
    assert second == pytest.approx(3 * first, rel=0.1)
    assert (transport.series("decoder/updates/ratio") > 0).all()


def test_a_block_that_does_not_train_has_weights_and_no_update(tmp_path: Path):
    model, optimizer = built()
    model.blocks[0].requires_grad_(requires_grad=False)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()

    ratio = transport.series("decoder/updates/ratio")
    assert np.isnan(ratio[0])
    assert (ratio[1:] > 0).all()
    assert (transport.series("decoder/weights/rms") > 0).all()


def test_parameters_that_no_optimizer_holds_stand_still(tmp_path: Path):
    model, _ = built()
    optimizer = torch.optim.AdamW(model.blocks[0].parameters(), lr=1e-2)
    model.blocks[2].requires_grad_(requires_grad=False)  # frozen on purpose
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for seed in (1, 2):
        agent.step(loss=train_step(model, optimizer, batch(seed)))
    agent.close()

    ratio = transport.series("decoder/updates/ratio")
    assert ratio[0] > 0
    assert ratio[1] == 0
    assert np.isnan(ratio[2])


def test_parameters_that_an_optimizer_nobody_named_moves_are_not_said_to_stand(tmp_path: Path):
    model, _ = built()
    held, others = list(model.blocks[0].parameters()), list(model.blocks[1].parameters())
    optimizer, unnamed = torch.optim.AdamW(held, lr=1e-2), torch.optim.SGD(others, lr=1e-2)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for seed in (1, 2):
        loss = loss_of(model, batch(seed))
        model.zero_grad()
        loss.backward()
        optimizer.step()
        unnamed.step()
        agent.step(loss=loss)
    agent.close()

    ratio = transport.series("decoder/updates/ratio")
    assert ratio[0] > 0 and np.isnan(ratio[1])


def test_an_optimizer_nobody_named_may_wait_for_the_second_update_of_a_step(tmp_path: Path):
    model, _ = built()
    critic, others = list(model.blocks[0].parameters()), list(model.blocks[1].parameters())
    optimizer, unnamed = torch.optim.AdamW(critic, lr=1e-2), torch.optim.SGD(others, lr=1e-2)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for step in range(3):
        for update in range(2):  # as a critic is trained more often
            loss = loss_of(model, batch(2 * step + update))
            model.zero_grad()
            loss.backward()
            optimizer.step()
        unnamed.step()
        agent.step(loss=loss)
    agent.close()

    assert np.isnan(transport.series("decoder/updates/ratio")[1])
