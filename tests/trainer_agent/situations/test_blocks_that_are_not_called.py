"""Blocks that are lists of parts: the model calls the parts, and no layer is made up."""

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
def test_parts_of_pairs_are_no_layers_and_the_description_says_so(
    depth: int, tmp_path: Path
) -> None:
    model = Pairs(depth)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent, server = recorded(model, tmp_path, optimizer=optimizer, every=1)

    for _ in range(2):
        model(torch.randn(2, 5, WIDTH)).square().mean().backward()
        optimizer.step()
        agent.step()
    assert agent.close()

    assert {series.stack for series in server.declarations[-1].layout.series} == {""}
    (missing,) = server.revisions[0].spec["missing"]
    assert missing["what"] == "blocks" and "that hold matrices and are called" in missing["why"]
    assert server.health.silent == ()


def test_blocks_of_stages_stay_layers() -> None:
    assert [column.blocks for column in columns(Stages(2, 2))] == [
        ("stages.0.0", "stages.0.1"),
        ("stages.1.0", "stages.1.1"),
    ]
