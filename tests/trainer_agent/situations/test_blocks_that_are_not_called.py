"""Blocks that are lists of parts: the model calls the parts, and hooks of theirs see the stream."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainer_agent.recording import recorded
from trainer_agent.model.blocks import columns

WIDTH = 8


class Mixing(nn.Module):
    """A part with two matrices of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.query(x).softmax(-1))


def feed_forward() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))


class Pairs(nn.Module):
    """A list of pairs, walked by the model's own forward pass."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        pairs = (nn.ModuleList([Mixing(), feed_forward()]) for _ in range(depth))
        self.layers = nn.ModuleList(pairs)

    def forward(self, x: Tensor) -> Tensor:
        for mixing, forward in self.layers:
            x = x + mixing(x)
            x = x + forward(x)
        return x


class Stages(nn.Module):
    """A list of lists of alike blocks."""

    def __init__(self, *depths: int) -> None:
        super().__init__()
        stages = (nn.ModuleList([feed_forward() for _ in range(depth)]) for depth in depths)
        self.stages = nn.ModuleList(stages)


@pytest.mark.parametrize("depth", [2, 5])
def test_pairs_of_the_model_itself_are_layers_whatever_their_parts_are(
    depth: int, tmp_path: Path
) -> None:
    model = Pairs(depth)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    agent, server = recorded(model, tmp_path, optimizer=optimizer, every=1)
    batch = torch.randn(2, 5, WIDTH)

    for _ in range(3):
        model(batch).square().mean().backward()
        optimizer.step()
        agent.step()
    assert agent.close()

    x, streams = batch, [batch]
    for mixing, forward in model.layers:
        x = x + mixing(x)
        x = x + forward(x)
        streams.append(x)
    direct = [stream.detach().double().var(correction=0).item() for stream in streams]
    assert server.series("decoder/stream/variance") == pytest.approx(direct, rel=1e-5)
    reasons = {m["where"]: m["why"] for m in server.revisions[0].spec["missing"]}
    assert "layers.0" in reasons
    assert server.health.failures == 0


def test_blocks_of_stages_stay_layers() -> None:
    assert [column.blocks for column in columns(Stages(2, 2))] == [
        ("stages.0.0", "stages.0.1"),
        ("stages.1.0", "stages.1.1"),
    ]
