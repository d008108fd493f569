"""Blocks that are compiled each by itself: one graph for all of them, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from examples.byte_gpt import ByteGPT, Sizes, loss_of
from tests.trainer_agent import small_gpt
from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, train_step

# torch.compile looks at a block's input in a way that torch itself warns of.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

LAYERS = 10  # more than torch compiles one piece of code for
SITES = ("stream", "stream_gradient", "attention", "feed_forward", "attention_norm_input")
QUANTITIES = ("variance", "absmax", "kurtosis", "stable_rank")

Compile = Callable[[SmallGPT], None]


def in_place(model: SmallGPT) -> None:
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)


def around(model: SmallGPT) -> None:
    for index, block in enumerate(model.blocks):
        model.blocks[index] = torch.compile(block, backend="aot_eager", fullgraph=True)


def left_alone(model: SmallGPT) -> None:
    pass


@pytest.fixture(autouse=True)
def deep(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(small_gpt, "LAYERS", LAYERS)


def run(
    folder: Path, compiles: Compile, *, first: bool = False, every: int = 1
) -> tuple[RecordingTransport, nn.Module]:
    """Four steps of a model that is compiled after it is watched, or before."""
    model, optimizer = built()
    if first:
        compiles(model)
    agent, transport = recorded(
        model, folder, optimizer=optimizer, every=every, sites="norm_inputs", quantities="all"
    )
    agent.prepare((batch(0)[:, :-1],), {})
    if not first:
        compiles(model)
    for step in range(4):
        agent.step(loss=train_step(model, optimizer, batch(step)))
    agent.close()
    assert agent._parts.guard.failures == 0
    return transport, model


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("compiles", [in_place, around])
def test_all_blocks_share_one_graph_and_give_the_same_numbers(
    compiles: Compile, first: bool, tmp_path: Path
) -> None:
    plain, _ = run(tmp_path, left_alone)
    compiled, _ = run(tmp_path, compiles, first=first)

    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 1
    for at in (0, 3):
        for site in SITES:
            for quantity in QUANTITIES:
                if f"decoder/{site}/{quantity}" in plain.declarations[0].layout.slices:
                    key = f"decoder/{site}/{quantity}"
                    values, expected = compiled.series(key, at=at), plain.series(key, at=at)
                    np.testing.assert_allclose(values, expected, rtol=2e-4, err_msg=key)


@pytest.mark.parametrize("compiles", [in_place, around])
def test_steps_that_are_not_sampled_take_one_graph_more(compiles: Compile, tmp_path: Path) -> None:
    transport, _ = run(tmp_path, compiles, every=2)

    assert counters["stats"]["unique_graphs"] == 2
    assert [frame.step for frame in transport.frames] == [0, 2]
    assert np.isfinite(transport.series("decoder/attention/variance")).all()


def test_parts_of_blocks_share_their_graph_too(tmp_path: Path) -> None:
    variances = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = ByteGPT(Sizes(layers=LAYERS, width=16, heads=2, context=8), "pre")
        agent, transport = recorded(model, tmp_path)
        agent.prepare((batch(0)[:, :-1],), {})
        for block in model.blocks if compiles else ():
            block.attention.compile(backend="aot_eager", fullgraph=True)
        for step in range(2):
            loss_of(model(batch(step)[:, :-1]), batch(step)[:, 1:]).backward()
            agent.step()
        agent.close()
        assert agent._parts.guard.failures == 0
        variances.append(transport.series("decoder/attention/variance"))

    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 1
    np.testing.assert_allclose(variances[1], variances[0], rtol=2e-4)


def test_a_closed_agent_leaves_the_compiled_call_as_it_was(tmp_path: Path) -> None:
    _, model = run(tmp_path, in_place)

    calls = [block._compiled_call_impl for block in model.blocks]
    assert all(call.__module__.startswith("torch.") for call in calls)
