"""On a CUDA device: the same numbers as on the host, the same weights, and no waiting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import batch, built, train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def trained(device: str, folder: Path | None, steps: int) -> tuple[list, RecordingTransport | None]:
    """Weights after some steps, and what an agent sent where there is a folder for it."""
    model, _ = built()
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    agent, transport = None, None
    if folder is not None:
        agent, transport = recorded(model, folder, optimizer=optimizer)
    for step in range(steps):
        loss = train_step(model, optimizer, batch(step).to(device))
        if agent is not None:
            agent.step(loss=loss)
    if agent is not None:
        agent.close()
    return [parameter.detach().cpu() for parameter in model.parameters()], transport


def test_cuda_job_shows_the_numbers_of_the_same_job_on_the_host(tmp_path):
    _, on_host = trained("cpu", tmp_path / "host", 2)
    _, on_device = trained("cuda", tmp_path / "device", 2)

    for key in ("decoder/stream/variance", "decoder/stream_gradient/variance", "/loss/value"):
        # float32 matrix products in another order
        np.testing.assert_allclose(on_device.series(key), on_host.series(key), rtol=1e-3)


def test_weights_of_a_cuda_job_are_bit_identical(tmp_path):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        bare, _ = trained("cuda", None, 20)
        watched, _ = trained("cuda", tmp_path, 20)
    finally:
        torch.use_deterministic_algorithms(False)

    assert all(
        torch.equal(weight, watched_weight)
        for weight, watched_weight in zip(bare, watched, strict=True)
    )


def test_a_step_between_samples_keeps_its_loss_without_waiting(tmp_path):
    model, _ = built()
    model.cuda()
    agent, transport = recorded(model, tmp_path, every=1000, packs_steps=True)
    losses = [torch.full((), float(step), device="cuda", requires_grad=True) for step in range(20)]
    agent.step(loss=losses[0])

    torch.cuda.set_sync_debug_mode("error")
    try:
        for loss in losses[1:]:
            agent.step(loss=loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    agent.close()

    assert transport.scalars("loss") == {step: float(step) for step in range(20)}


def test_sampled_step_never_waits_for_the_device(tmp_path):
    model, _ = built()
    model.cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    ids = [batch(step).cuda() for step in range(6)]
    for step in range(4):  # describes the model and compiles the kernel
        agent.step(loss=train_step(model, optimizer, ids[step]))

    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(4, 6):
            agent.step(loss=train_step(model, optimizer, ids[step]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    agent.close()

    assert transport.health.failures == 0
    assert [frame.step for frame in transport.frames] == list(range(6))
