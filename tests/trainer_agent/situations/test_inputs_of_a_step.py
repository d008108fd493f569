"""The input that a prediction starts from is that of the step: all passes that are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dslm import predict, spec_from_json
from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of

Passes = Callable[[SmallGPT], None]


def repetitive(seed: int) -> Tensor:
    """Ids of a micro-batch whose tokens are alike, the more the larger the seed."""
    return batch(seed) % (2 + 6 // seed)


def micro_batches(model: SmallGPT) -> None:
    for seed in (1, 2, 3):
        (loss_of(model, repetitive(seed)) / 3).backward()


def two_views_before_one_backward(model: SmallGPT) -> None:
    first, second = (model(repetitive(seed)[:, :-1]) for seed in (1, 3))
    (first - second).square().mean().backward()


def padded_micro_batches(model: SmallGPT) -> None:
    for seed in (1, 2):
        ids = repetitive(seed)
        mask = torch.ones_like(ids[:, :-1])
        mask[:, 5:] = 0
        loss_of(model, ids, attention_mask=mask).backward()


def evaluation_between(model: SmallGPT) -> None:
    loss_of(model, repetitive(1)).backward()
    with torch.no_grad():
        loss_of(model, repetitive(3))
    loss_of(model, repetitive(2)).backward()


@pytest.mark.parametrize(
    "passes",
    [micro_batches, two_views_before_one_backward, padded_micro_batches, evaluation_between],
)
def test_prediction_starts_where_the_measurement_does(passes: Passes, tmp_path: Path) -> None:
    model, optimizer = built()
    agent, server = recorded(model, tmp_path, optimizer=optimizer, every=1)
    for _ in range(2):
        passes(model)
        optimizer.step()
        optimizer.zero_grad()
        agent.step()
    assert agent.close()

    spec = spec_from_json(server.revisions[0].spec)
    predicted = predict(spec).stacks["decoder"].forward

    for quantity, of in (("variance", predicted.variance), ("correlation", predicted.correlation)):
        measured = server.series(f"decoder/stream/{quantity}", server.revisions[0].step)[0]
        assert of[0] == pytest.approx(float(measured), rel=1e-3, abs=1e-3), quantity


def test_passes_of_several_lengths_are_told_apart(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, server = recorded(model, tmp_path, optimizer=optimizer, every=1)

    for length in (9, 4, 4):
        loss_of(model, repetitive(1)[:, :length]).backward()
    optimizer.step()
    agent.step()
    assert agent.close()

    spec = spec_from_json(server.revisions[0].spec)
    stack = spec.stacks["decoder"]
    assert stack.input_kernel.cell_sizes.sum() == 8
    assert stack.top_gradient_kernel is not None
    assert stack.top_gradient_kernel.cell_sizes.sum() == 8
    (note,) = (note for note in spec.notes if "lengths" in note)
    assert "sequences of 8 tokens, which hold 57% of the step's tokens" in note
