"""Describing a model leaves it, and everything around it, as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import trainer_agent
from tests.trainer_agent.description.home_made import (
    Block,
    FeedForward,
    Model,
    WrittenAttention,
    batch,
)
from trainer_agent.description import architecture, measure

Describe = Callable[[nn.Module], object]
WAYS: list[Describe] = [
    lambda model: architecture(model, (), batch()),
    lambda model: trainer_agent.describe(model, batch()),
]


class Counting(nn.Module):
    """A block that counts its calls in a buffer and draws random numbers of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        drawn = random.random() + np.random.random()
        return self.inner(x) + 0.0 * (torch.rand(()) + drawn)


def model() -> nn.Module:
    torch.manual_seed(0)
    blocks = [Block(WrittenAttention(), FeedForward()) for _ in range(2)]
    return Model(Counting(blocks[0]), Counting(blocks[1]))


def hooks_of(module: nn.Module) -> dict[str, list[Any]]:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        f"{path}{name}": list(getattr(inner, name).items())
        for path, inner in module.named_modules()
        for name in names
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("training", [True, False])
def test_describing_leaves_a_model_as_it_was(way: Describe, training: bool) -> None:
    watched = model().train(training)
    watched.blocks[0].register_forward_hook(lambda *_: None)
    watched(**batch())["loss"].backward()
    grads = {n: p.grad.clone() for n, p in watched.named_parameters() if p.grad is not None}
    state = {n: t.clone() for n, t in watched.state_dict().items()}
    modes = [m.training for m in watched.modules()]
    hooks, state_of_torch = hooks_of(watched), torch.get_rng_state()
    others = random.getstate(), np.random.get_state()[1].tolist()

    way(watched)

    assert torch.equal(torch.get_rng_state(), state_of_torch)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == others
    assert hooks_of(watched) == hooks
    assert [m.training for m in watched.modules()] == modes
    assert all(torch.equal(t, state[n]) for n, t in watched.state_dict().items())
    for name, parameter in watched.named_parameters():
        assert (parameter.grad is None) == (name not in grads)
        assert parameter.grad is None or torch.equal(parameter.grad, grads[name])


@pytest.mark.parametrize("way", WAYS)
def test_training_goes_on_the_same_after_describing(way: Describe) -> None:
    def train(describing: bool) -> list[Tensor]:
        watched = model()
        optimizer = torch.optim.SGD(watched.parameters(), lr=0.1)
        for step in range(3):
            if describing and step == 1:
                way(watched)
            optimizer.zero_grad()
            watched(**batch())["loss"].backward()
            optimizer.step()
        return [p.detach().clone() for p in watched.parameters()]

    pairs = zip(train(True), train(False), strict=True)

    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_failing_forward_takes_hooks_and_state_back() -> None:
    watched = model()
    hooks, state_of_torch = hooks_of(watched), torch.get_rng_state()

    with pytest.raises(ValueError, match="batch: Model's forward fails"):
        trainer_agent.describe(watched, {"ids": torch.full((1, 4), 99)})

    assert hooks_of(watched) == hooks
    assert torch.equal(torch.get_rng_state(), state_of_torch)


def test_a_compiled_model_is_described_and_not_compiled_again() -> None:
    torch._dynamo.reset()
    plain = Model(Block(WrittenAttention(), FeedForward())).eval()
    compilations = CompileCounter()
    compiled = torch.compile(plain, backend=compilations)
    compiled(**batch())
    before = compilations.frame_count

    recognised = architecture(compiled, (), batch())
    compiled(**batch())

    assert recognised.missing == ()
    assert recognised.stacks[0].blocks == ("blocks.0",)
    assert compilations.frame_count == before


def test_a_data_parallel_wrapper_is_looked_through() -> None:
    plain = Model(Block(WrittenAttention(), FeedForward()))
    wrapped = nn.DataParallel(plain)

    recognised = architecture(wrapped, (), batch())

    assert recognised == architecture(plain, (), batch())
    assert measure(recognised, wrapped) == measure(recognised, plain)
