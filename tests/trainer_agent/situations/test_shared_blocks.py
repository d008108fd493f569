"""A block that a pass calls several times, as ALBERT and the Universal Transformer do."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.situations.pre_ln import WIDTH, Block


class Shared(nn.Module):
    """Goes through its blocks several times; notes what each call puts out."""

    def __init__(self, depth: int, rounds: int, *, reentrant: bool | None, marks: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.rounds, self.reentrant = rounds, reentrant
        self.marks = nn.Parameter(torch.randn(rounds, WIDTH)) if marks else None
        self.streams: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.streams = [x]
        for at in range(self.rounds):
            if self.marks is not None and at > 0:
                x = x + self.marks[at]
            for block in self.blocks:
                if self.reentrant is None:
                    x = block(x)
                else:
                    x = checkpoint(block, x, use_reentrant=self.reentrant)
                x.retain_grad()
                self.streams.append(x)
        return x


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize(
    ("depth", "rounds", "marks"), [(1, 4, False), (1, 3, True), (2, 3, False), (3, 2, True)]
)
def test_each_call_is_a_layer(
    depth: int, rounds: int, marks: bool, reentrant: bool | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Shared(depth, rounds, reentrant=reentrant, marks=marks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    expected: list[list[float]] = []

    for _ in range(4):
        model(torch.randn(2, 5, WIDTH, requires_grad=True)).square().mean().backward()
        gradients = [x.grad for x in model.streams if x.grad is not None]
        tensors = [*(x.detach() for x in model.streams), *gradients]
        expected.append([float(x.var(unbiased=False)) for x in tensors])
        optimizer.step()
        optimizer.zero_grad()
        agent.step()
    agent.close()

    n = depth * rounds
    # The first pass shows how often each is called.
    for at in range(1, 4):
        variance = transport.series("decoder/stream/variance", at)
        np.testing.assert_allclose(variance, expected[at][: n + 1], rtol=1e-4)
        gradient = transport.series("decoder/stream_gradient/variance", at)
        np.testing.assert_allclose(gradient, expected[at][n + 1 :], rtol=1e-4)
        for site in ("attention", "feed_forward"):
            assert np.isfinite(transport.series(f"decoder/{site}/variance", at)).all()
    reasons = transport.revisions[-1].spec["missing"]
    assert {m["what"] for m in reasons} == {"shared block"} and len(reasons) == depth
    assert transport.health.failures == 0


def test_two_inputs_of_one_block_are_no_two_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Shared(2, 1, reentrant=None, marks=False)
    pair = nn.Module()
    pair.tower = model
    pair.forward = lambda a, b: (model(a) - model(b)).square().mean()  # type: ignore[method-assign]
    agent, transport = recorded(pair, tmp_path)

    for _ in range(2):
        pair(torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)).backward()
        agent.step()
    agent.close()

    assert len(transport.series("decoder/stream/variance")) == 3


def rms(tensors: Iterable[Tensor]) -> float:
    return float(torch.cat([x.detach().double().flatten() for x in tensors]).square().mean().sqrt())


@pytest.mark.parametrize(("depth", "rounds"), [(1, 3), (2, 2)])
def test_every_call_has_the_weights_of_its_block_and_the_model_has_them_once(
    depth: int, rounds: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Shared(depth, rounds, reentrant=None, marks=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, sites=("weights", "updates"))

    for _ in range(3):
        model(torch.randn(2, 5, WIDTH)).square().mean().backward()
        of_blocks = [rms(block.parameters()) for block in model.blocks]
        gradients = [rms(p.grad for p in block.parameters()) for block in model.blocks]
        of_model = rms(model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        agent.step()
    agent.close()

    for site, expected in (("weights", of_blocks), ("weight_gradients", gradients)):
        measured = transport.series(f"decoder/{site}/rms")
        np.testing.assert_allclose(measured, expected * rounds, rtol=1e-4)
    np.testing.assert_allclose(transport.series("/weights/rms"), [of_model], rtol=1e-4)
    assert np.isfinite(transport.series("decoder/updates/ratio")).all()


@pytest.mark.parametrize("n_passes", [1, 3])
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_training_is_the_same_with_and_without_the_agent(
    n_passes: int, reentrant: bool | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    watched = Shared(2, 3, reentrant=reentrant, marks=True)
    bare = copy.deepcopy(watched)

    for model in (bare, watched):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        agent = recorded(model, tmp_path, optimizer=optimizer)[0] if model is watched else None
        for _ in range(3):
            for _ in range(n_passes):
                model(torch.randn(2, 5, WIDTH, requires_grad=True)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if agent is not None:
                agent.step()
        if agent is not None:
            agent.close()

    for name, parameter in bare.named_parameters():
        assert torch.equal(parameter, watched.get_parameter(name)), name


@pytest.mark.parametrize(("depth", "rounds"), [(1, 3), (2, 2)])
def test_norm_inputs_and_heads_are_those_of_each_call(
    depth: int, rounds: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Shared(depth, rounds, reentrant=None, marks=False)
    sites = ("norm_inputs", "attention_heads")
    agent, transport = recorded(model, tmp_path, sites=sites)
    inputs: list[list[Tensor]] = [[], []]
    for block in model.blocks:
        for norm, of_norm in zip(block.norms, inputs, strict=True):
            norm.register_forward_pre_hook(lambda _, args, to=of_norm: to.append(args[0].detach()))

    for _ in range(3):
        for of_norm in inputs:
            of_norm.clear()
        model(torch.randn(2, 5, WIDTH)).square().mean().backward()
        agent.step()
    agent.close()

    for site, of_norm in zip(("attention", "feed_forward"), inputs, strict=True):
        measured = transport.series(f"decoder/{site}_norm_input/variance")
        expected = [float(x.var(correction=0)) for x in of_norm]
        np.testing.assert_allclose(measured, expected, rtol=1e-4)
    heads = transport.series("decoder/attention_head_1/variance")
    assert len(heads) == depth * rounds and np.isfinite(heads).all()
    assert transport.health.silent == () and transport.health.failures == 0


@pytest.mark.parametrize(("rounds", "is_more"), [((2, 4), True), ((4, 2), False), ((3, 3), False)])
def test_more_calls_than_layers_are_said(
    rounds: tuple[int, int], is_more: bool, tmp_path: Path
) -> None:
    model = Shared(1, rounds[0], reentrant=None, marks=False)
    agent, transport = recorded(model, tmp_path)

    for n_calls in (rounds[0], *rounds, *rounds):
        model.rounds = n_calls
        model(torch.randn(2, 5, WIDTH)).square().mean().backward()
        agent.step()
    agent.close()

    assert any("shared block" in note for note in transport.health.notes) == is_more
    assert transport.health.failures == 0
