"""Jobs that train in evaluation mode are measured; evaluations are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of


def streams_of(model: SmallGPT) -> list[Tensor]:
    """Variances of the stream of the next passes, appended pass by pass."""
    variances: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, y: variances.append(y.detach().double()))
    return variances


def variance(tensors: list[Tensor]) -> list[float]:
    return [float(x.var(correction=0)) for x in tensors]


def test_a_job_that_trains_in_evaluation_mode_is_measured_and_said_so(tmp_path: Path) -> None:
    model, optimizer = built(p_drop=0.3)
    model.eval()
    outputs = streams_of(model)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for step in range(3):
        outputs.clear()
        loss_of(model, batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.step(loss=1.0)
    agent.close()

    direct = variance(outputs)
    np.testing.assert_allclose(transport.series("decoder/stream/variance")[1:], direct, rtol=1e-5)
    for key in ("stream/variance", "stream_gradient/variance", "attention_logits/variance"):
        assert all(np.isfinite(transport.series(f"decoder/{key}", at)).all() for at in range(3))
    for site in ("attention", "feed_forward"):
        assert np.isfinite(transport.series(f"decoder/{site}/variance")).all()
    assert transport.revisions[0].spec["missing"] == []
    assert "evaluation mode" in str(agent._parts.sender._complete_health())
    assert agent._parts.guard.failures == 0


def test_evaluations_between_backward_passes_are_not_counted(tmp_path: Path) -> None:
    model, optimizer = built()
    model.eval()
    outputs = streams_of(model)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for step in range(3):
        with torch.no_grad():  # as `generate` does
            model(batch(step + 20)[:, :-1])
        model(batch(step + 40)[:, :-1])  # with gradients enabled, and no backward pass
        outputs.clear()
        loss_of(model, batch(step)).backward()
        direct = variance(outputs)
        model(batch(step + 60)[:, :-1])
        agent.step(loss=1.0)
    agent.close()

    np.testing.assert_allclose(transport.series("decoder/stream/variance")[1:], direct, rtol=1e-5)


def test_an_evaluation_with_gradients_leaves_a_training_job_as_it_is(tmp_path: Path) -> None:
    model, optimizer = built(p_drop=0.1)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    model.eval()
    model(batch(9)[:, :-1])
    model.train()
    outputs = streams_of(model)
    loss_of(model, batch(0)).backward()
    agent.step(loss=1.0)
    agent.close()

    direct = variance(outputs)
    np.testing.assert_allclose(transport.series("decoder/stream/variance")[1:], direct, rtol=1e-5)
    blocks = transport.revisions[0].spec["stacks"]["decoder"]["blocks"]
    assert blocks[0]["attention_residual"]["p_drop"] == 0.1
