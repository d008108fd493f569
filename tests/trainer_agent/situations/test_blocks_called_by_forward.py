"""Blocks called by their `forward`, past their hooks: nothing is made up of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.situations.pre_ln import WIDTH, Block


class ByForward(nn.Module):
    """Calls the first `n_hooked` blocks as modules, and the others by their `forward`."""

    def __init__(self, depth: int, n_hooked: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.n_hooked = n_hooked

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x) if index < self.n_hooked else block.forward(x)
        return x


@pytest.mark.parametrize("n_hooked", [0, 2])
def test_blocks_called_by_forward_are_no_layers_and_the_description_says_so(
    n_hooked: int, tmp_path: Path
) -> None:
    model = ByForward(4, n_hooked)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for _ in range(3):
        model(torch.randn(2, 5, WIDTH, requires_grad=True)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.step()
    agent.close()

    reasons = [m for m in transport.revisions[-1].spec["missing"] if "`forward`" in m["why"]]
    assert [m["where"] for m in reasons] == ["blocks" if n_hooked == 0 else "blocks.2"]
    layers = {s.n for s in transport.declarations[-1].layout.series if s.site == "stream"}
    assert layers == ({n_hooked + 1} if n_hooked else set())
    assert transport.health.silent == () and transport.health.failures == 0
