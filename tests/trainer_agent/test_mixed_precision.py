"""Autocast and loss scaling: the numbers are those of the gradients without the scale."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.amp import GradScaler

from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of


def streams_of(model: SmallGPT) -> list[Tensor]:
    """Filled, as the model runs, with the blocks' outputs, which keep their gradients."""
    streams: list[Tensor] = []

    def keep(_: object, __: object, out: Tensor) -> None:
        if out.requires_grad:  # not in the agent's own pass, which follows the architecture
            out.retain_grad()
            streams.append(out)

    for block in model.blocks:
        block.register_forward_hook(keep)
    return streams


def variances(tensors: list[Tensor]) -> list[float]:
    return [float(x.detach().double().var(correction=0)) for x in tensors]


def scaled_step(
    model: SmallGPT, optimizer: torch.optim.Optimizer, scaler: GradScaler, ids: Tensor
) -> Tensor:
    with torch.autocast("cpu", torch.float16):
        loss = loss_of(model, ids)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss


def test_bfloat16_streams_and_gradients_equal_a_direct_computation(tmp_path: Path) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)
    streams = streams_of(model)

    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, batch(1))
    loss.backward()
    agent.step(loss=loss)
    agent.close()

    assert transport.series("decoder/stream/variance")[1:] == pytest.approx(variances(streams))
    gradients = variances([x.grad for x in streams if x.grad is not None])
    assert transport.series("decoder/stream_gradient/variance")[1:] == pytest.approx(gradients)


@pytest.mark.parametrize("passed", [True, False])
def test_gradients_are_divided_by_the_scale_in_force(
    tmp_path: Path, passed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = built()
    # Grows after every step: by the end of a step the scaler's own value is the next one.
    scaler = GradScaler("cpu", init_scale=256.0, growth_interval=1)
    options = {"scaler": scaler} if passed else {}
    # Scalers of earlier tests may live on; a job that has one is what is tested here.
    monkeypatch.setattr(gc, "get_objects", lambda: [model, optimizer, scaler])
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, **options)
    streams = streams_of(model)

    agent.step(loss=scaled_step(model, optimizer, scaler, batch(1)))
    first = variances([x.grad for x in streams[-3:] if x.grad is not None])
    agent.step(loss=scaled_step(model, optimizer, scaler, batch(2)))
    second = variances([x.grad for x in streams[-3:] if x.grad is not None])
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    agent.close()

    series = "decoder/stream_gradient/variance"
    assert transport.series(series, at=0)[1:] == pytest.approx(np.array(first) / 256**2)
    assert transport.series(series, at=1)[1:] == pytest.approx(np.array(second) / 512**2)
    assert transport.series("/loss_scale/value", at=1)[0] == 512
    assert transport.series("/gradient_norm/value", at=1)[0] == pytest.approx(float(norm), rel=1e-3)


def test_of_several_scalers_none_is_guessed_and_the_log_asks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = built()
    others = [GradScaler("cpu", init_scale=8.0) for _ in range(2)]
    for other in others:
        other.scale(torch.ones(()))
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    agent.step(loss=scaled_step(model, optimizer, others[0], batch(1)))
    agent.close()

    assert "watch(..., scaler=...)" in caplog.text
    assert "/loss_scale/value" not in transport.declarations[0].layout.slices


def test_skipped_steps_are_counted(tmp_path: Path) -> None:
    model, optimizer = built()
    scaler = GradScaler("cpu", init_scale=2.0**40, growth_interval=1000, backoff_factor=2.0**-28)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, scaler=scaler)

    for step in range(4):
        agent.step(loss=scaled_step(model, optimizer, scaler, batch(step)))
    agent.close()

    skipped = [skips(transport, at) for at in range(4)]
    assert skipped == [1, 1, 1, 1]
    assert transport.series("/loss_scale/value", at=3)[0] == 2.0**12


def skips(transport: RecordingTransport, at: int) -> float:
    return float(transport.series("/skipped_steps/value", at=at)[0])


def test_the_gradient_norm_is_that_before_clipping(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    loss_of(model, batch(1)).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()
    agent.step()
    agent.close()

    assert transport.series("/gradient_norm/value")[0] == pytest.approx(float(norm), rel=1e-5)


def test_the_gradient_norm_of_micro_batches_is_that_of_their_sum(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for micro_batch in range(3):
        loss_of(model, batch(micro_batch)).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    optimizer.step()
    agent.step()
    agent.close()

    assert transport.series("/gradient_norm/value")[0] == pytest.approx(float(norm), rel=1e-5)


def weights_after(steps: int, folder: Path | None) -> list[Tensor]:
    model, optimizer = built(p_drop=0.2)
    scaler = GradScaler("cpu", init_scale=256.0, growth_interval=2)
    agent = recorded(model, folder, optimizer=optimizer)[0] if folder else None
    torch.manual_seed(3)
    for step in range(steps):
        loss = scaled_step(model, optimizer, scaler, batch(step))
        if agent is not None:
            agent.step(loss=loss)
    if agent is not None:
        agent.close()
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_weights_under_loss_scaling_are_bit_identical(tmp_path: Path) -> None:
    bare, watched = weights_after(12, None), weights_after(12, tmp_path)

    assert all(
        torch.equal(weight, watched_weight)
        for weight, watched_weight in zip(bare, watched, strict=True)
    )
