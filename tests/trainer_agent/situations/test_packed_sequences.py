"""Streams of (tokens, features): measured, without token correlation and without a prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.trainer_agent.recording import recorded
from wire import is_absent

WORDS, WIDTH, HEADS = 30, 16, 2


class PackedBlock(nn.Module):
    """A Pre-LN block over several sequences in a row, kept apart by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norms[0](x)
        heads = (f(h).unflatten(-1, (HEADS, -1)) for f in (self.q, self.k, self.v))
        q, k, v = (of_heads.transpose(0, 1) for of_heads in heads)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(mixed.transpose(0, 1).flatten(1))
        return x + self.down(torch.relu(self.up(self.norms[1](x))))


class Packed(nn.Module):
    """Token ids of several sequences in a row, and which sequence each belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.blocks = nn.ModuleList(PackedBlock() for _ in range(3))
        self.streams: list[Tensor] = []

    def forward(self, ids: Tensor, sequence: Tensor) -> Tensor:
        x = self.words(ids)
        self.streams = [x]
        for block in self.blocks:
            x = block(x, sequence[:, None] == sequence[None])
            self.streams.append(x)
        for stream in self.streams:
            stream.retain_grad()
        return self.head(x)


def test_packed_streams_are_measured_without_correlation_or_prediction(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Packed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    expected: list[list[float]] = []

    for lengths in ([4, 7], [3, 3, 2], [9]):
        sequence = torch.repeat_interleave(torch.tensor(lengths))
        ids = torch.randint(WORDS, (len(sequence),))
        nn.functional.cross_entropy(model(ids, sequence), ids).backward()
        gradients = [x.grad for x in model.streams if x.grad is not None]
        expected.append([float(x.detach().var(unbiased=False)) for x in model.streams])
        expected[-1] += [float(g.var(unbiased=False)) for g in gradients]
        optimizer.step()
        optimizer.zero_grad()
        agent.step()
    agent.close()

    for at, variances in enumerate(expected):
        sites = ("stream", "stream_gradient")
        measured = [transport.series(f"decoder/{site}/variance", at) for site in sites]
        np.testing.assert_allclose(np.concatenate(measured), variances, rtol=1e-4)
        for site in sites:
            assert is_absent(transport.series(f"decoder/{site}/correlation", at)).all()
    (missing,) = transport.revisions[-1].spec["missing"]
    assert missing["where"] == "blocks" and "packed sequences" in missing["why"]
    assert transport.health.failures == 0
