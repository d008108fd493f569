"""Weights, gradients and updates by block, against copies taken around the optimizer's step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import LAYERS, SmallGPT, batch, built, loss_of, train_step
from trainer_agent.job.parameter_sample import SAMPLED_VALUES


def rms(tensors: list[Tensor]) -> float:
    flat = torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])
    return float(flat.square().mean().sqrt())


def of_block(model: nn.Module, index: int) -> list[nn.Parameter]:
    return list(model.blocks[index].parameters())


def copies(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def test_weights_and_gradients_are_those_the_optimizer_finds(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, sites="weights")
    before = [copies(of_block(model, index)) for index in range(LAYERS)]
    all_before = copies(list(model.parameters()))

    for seed in (1, 2):  # one step of two micro-batches
        (loss_of(model, batch(seed)) / 2).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    agent.step()
    agent.close()

    measured = transport.series("decoder/weights/rms")
    assert measured == pytest.approx([rms(tensors) for tensors in before], rel=1e-6)
    gradients = [[p.grad for p in of_block(model, index)] for index in range(LAYERS)]
    measured = transport.series("decoder/weight_gradients/rms")
    assert measured == pytest.approx([rms(tensors) for tensors in gradients], rel=1e-5)
    assert transport.series("/weights/rms")[0] == pytest.approx(rms(all_before), rel=1e-6)
    all_gradients = [p.grad for p in model.parameters()]
    assert transport.series("/weight_gradients/rms")[0] == pytest.approx(
        rms(all_gradients), rel=1e-5
    )


def test_updates_and_second_moments_are_what_the_step_did(tmp_path: Path):
    model, optimizer = built()
    train_step(model, optimizer, batch(0))
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, sites=["updates"])
    before = [copies(of_block(model, index)) for index in range(LAYERS)]
    all_before = copies(list(model.parameters()))

    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()

    def ratio(parameters: list[nn.Parameter], old: list[Tensor]) -> float:
        return rms([p - o for p, o in zip(parameters, old, strict=True)]) / rms(old)

    expected = [ratio(of_block(model, at), before[at]) for at in range(LAYERS)]
    # differences of float32 weights are good to about 1e-7 / 1e-3 each
    assert transport.series("decoder/updates/ratio") == pytest.approx(expected, rel=1e-4)
    assert transport.series("/updates/ratio")[0] == pytest.approx(
        ratio(list(model.parameters()), all_before), rel=1e-4
    )
    moments = [
        torch.cat(
            [optimizer.state[p]["exp_avg_sq"].double().reshape(-1) for p in of_block(model, at)]
        )
        for at in range(LAYERS)
    ]
    measured = transport.series("decoder/updates/second_moment")
    assert measured == pytest.approx([float(moment.mean()) for moment in moments], rel=1e-5)


def test_updates_of_large_tensors_are_seen_on_evenly_spread_values(tmp_path: Path):
    torch.manual_seed(0)
    model = SmallGPT()
    model.extra = nn.Linear(300, 300)
    optimizer = torch.optim.SGD([model.extra.weight], lr=0.1)
    model.extra.weight.grad = torch.randn(300, 300)
    old = model.extra.weight.detach().clone()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, sites=["updates"])

    optimizer.step()
    agent.step()
    agent.close()

    exact = rms([model.extra.weight - old]) / rms([old])
    # two norms of 1,024 values each: standard errors of 1 / sqrt(2 · 1,024) at most
    assert old.numel() > SAMPLED_VALUES
    assert transport.series("/updates/ratio")[0] == pytest.approx(exact, rel=4 * 2**0.5 / 45.3)
    assert np.isnan(transport.series("/updates/second_moment")[0])


def test_a_skipped_step_updates_nothing(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, sites=["weights", "updates"])

    loss_of(model, batch(1)).backward()
    agent.step()
    agent.close()

    assert np.isnan(transport.series("decoder/updates/ratio")).all()
    assert np.isnan(transport.series("/weights/rms")).all()


def test_without_an_optimizer_nothing_is_known_of_parameters(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, sites=["weights", "updates"])

    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()

    assert np.isnan(transport.series("decoder/weights/rms")).all()
    assert transport.health.failures == 0


def test_bf16_weights_are_measured_in_float32(tmp_path: Path):
    model, _ = built()
    model = model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, sites=["weights", "updates"])
    old = copies(list(model.parameters()))

    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()

    new = list(model.parameters())
    ratio = rms([n.float() - o.float() for n, o in zip(new, old, strict=True)]) / rms(old)
    assert transport.series("/weights/rms")[0] == pytest.approx(rms(old), rel=1e-5)
    # differences of bf16 values are rounded to bf16 once more: 2^-9 each, at random
    assert transport.series("/updates/ratio")[0] == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize("by_name", [True, False])
def test_gradients_that_a_closure_computes_inside_the_step_are_seen(by_name: bool, tmp_path: Path):
    model, _ = built()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, sites=["weights", "updates"])
    old, calls = copies(list(model.parameters())), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch(1))
        loss.backward()
        calls.append([p.grad.clone() for p in model.parameters()])
        return loss

    optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    agent.step()
    agent.close()

    assert len(calls) > 1 and transport.health.failures == 0
    assert transport.series("/weights/rms")[0] == pytest.approx(rms(old), rel=1e-6)
    measured = transport.series("/weight_gradients/rms")[0]
    assert measured == pytest.approx(rms(calls[0]), rel=1e-5)  # as it finds them first
    new = list(model.parameters())
    ratio = rms([n - o for n, o in zip(new, old, strict=True)]) / rms(old)
    assert transport.series("/updates/ratio")[0] == pytest.approx(ratio, rel=1e-3)
