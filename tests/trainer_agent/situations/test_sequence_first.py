"""Streams of (seq, batch, features): token correlation runs over the sequence, not the batch."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.trainer_agent.recording import RecordingTransport, recorded

WORDS, WIDTH, HEADS, LAYERS = 40, 16, 2, 3
SHAPES = [(3, 11), (11, 3)]  # sequences, tokens


class ByHand(nn.Module):
    """A block of (seq, batch, features) whose heads lie beside the batch, as fairseq has them."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        seq, batch, _ = x.shape
        h = self.norms[0](x)
        q, k, v = (
            f(h).view(seq, batch * HEADS, WIDTH // HEADS).transpose(0, 1)
            for f in (self.q, self.k, self.v)
        )
        if self.fused:
            q, k, v = (t.view(batch, HEADS, seq, WIDTH // HEADS) for t in (q, k, v))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v).flatten(0, 1)
        else:
            mixed = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) * 8**-0.5, -1), v)
        x = x + self.out(mixed.transpose(0, 1).reshape(seq, batch, WIDTH))
        return x + self.down(torch.relu(self.up(self.norms[1](x))))


class Recurrent(nn.Module):
    """A block without attention, of whose axes nothing can be told."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.cell(x)[0])


def blocks_of(kind: str) -> nn.ModuleList:
    if kind == "torch":
        layers = (nn.TransformerEncoderLayer(WIDTH, HEADS, 32, dropout=0.0) for _ in range(LAYERS))
        return nn.ModuleList(layers)
    if kind == "recurrent":
        return nn.ModuleList(Recurrent() for _ in range(LAYERS))
    return nn.ModuleList(ByHand(fused=kind == "fused") for _ in range(LAYERS))


class Words(nn.Module):
    """Token ids, (batch, seq), turned to (seq, batch) before the blocks, or so from the start."""

    def __init__(self, kind: str, *, turns: bool = True) -> None:
        super().__init__()
        self.turns = turns
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        # Words lie about a common direction: their tokens are correlated, sequences are not alike.
        self.blocks = blocks_of(kind)
        self.streams: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids if not self.turns else ids.transpose(0, 1))
        self.streams = [x]
        for block in self.blocks:
            x = block(x)
            self.streams.append(x)
        for stream in self.streams:
            stream.retain_grad()
        return self.head(x)


def correlation(x: Tensor) -> float:
    """Between tokens of one sequence of (seq, batch, features), pair by pair."""
    x = x.detach().double()
    centred = x - x.mean()
    products = torch.einsum("ibf,jbf->ij", centred, centred) / (x.shape[1] * x.shape[2])
    seq = len(x)
    apart = products[~torch.eye(seq, dtype=torch.bool)]
    return float(apart.mean() / centred.square().mean())


def ids_of(n_sequences: int, n_tokens: int, *, turns: bool) -> Tensor:
    """Each sequence repeats few words of its own, so that its tokens are alike."""
    ids = torch.stack([torch.randint(WORDS, (2,))[torch.randint(2, (n_tokens,))]
                       for _ in range(n_sequences)])  # fmt: skip
    return ids if turns else ids.T


def trained(
    model: Words, folder: Path, shapes: list[tuple[int, int]], **options: int
) -> tuple[RecordingTransport, list[list[Tensor]]]:
    """Steps on batches of these shapes; the streams and their gradients of each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    agent, transport = recorded(model, folder, optimizer=optimizer, **options)
    streams = []
    for n_sequences, n_tokens in shapes:
        ids = ids_of(n_sequences, n_tokens, turns=model.turns)
        logits = model(ids)
        targets = ids.T if model.turns else ids
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        streams.append([*model.streams, *(x.grad for x in model.streams if x.grad is not None)])
        optimizer.step()
        optimizer.zero_grad()
        agent.step(loss=loss)
    agent.close()
    assert agent._parts.guard.failures == 0
    return transport, streams


def measured(transport: RecordingTransport, at: int) -> np.ndarray:
    layouts = {d.layout.hash: d.layout for d in transport.declarations}
    slices = layouts[transport.frames[at].layout].slices
    name = next(key.split("/")[0] for key in slices if key.endswith("/stream/correlation"))
    return np.concatenate(
        [
            transport.series(f"{name}/{site}/correlation", at)
            for site in ("stream", "stream_gradient")
        ]
    )


@pytest.mark.parametrize("kind", ["torch", "fused", "bmm"])
@pytest.mark.parametrize("turns", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_correlation_is_that_between_tokens(
    kind: str, turns: bool, shape: tuple[int, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)

    transport, streams = trained(Words(kind, turns=turns), tmp_path, [shape] * 2)

    for at in (0, 1):
        expected = [correlation(x) for x in streams[at]]
        np.testing.assert_allclose(measured(transport, at), expected, rtol=2e-3, atol=2e-4)


def test_a_square_batch_is_told_by_what_the_blocks_compute(tmp_path: Path) -> None:
    torch.manual_seed(0)

    transport, streams = trained(Words("torch"), tmp_path, [(7, 7)] * 2)

    assert np.isnan(measured(transport, 0)[: LAYERS + 1]).all()
    np.testing.assert_allclose(measured(transport, 1), [correlation(x) for x in streams[1]], 2e-3)


def test_logits_of_heads_beside_the_batch_are_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    variances = []
    for kind in ("bmm", "fused"):
        model = Words(kind)
        for index, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(index)
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        torch.manual_seed(1)
        transport, _ = trained(model, tmp_path, [(3, 11)])
        key = next(
            key for key in transport.declarations[-1].layout.slices
            if key.endswith("attention_logits/variance")
        )  # fmt: skip
        variances.append(transport.series(key))

    by_hand, fused = variances
    np.testing.assert_allclose(by_hand, fused, rtol=1e-3)


def test_streams_of_which_nothing_is_told_live_no_longer_than_their_step(tmp_path: Path) -> None:
    model = Words("recurrent")
    agent, _ = recorded(model, tmp_path)
    model(ids_of(3, 11, turns=True)).sum().backward()
    last = weakref.ref(model.streams[-1])

    model.streams = []
    gc.collect()

    assert last() is None
    agent.close()


@settings(max_examples=10, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(2, 6), st.integers(2, 6)), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_what_the_user_says_holds_from_the_first_step(
    shapes: list[tuple[int, int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(seed)
    folder = tmp_path_factory.mktemp("job")

    transport, streams = trained(Words("recurrent", turns=False), folder, shapes, token_axis=0)

    for at, tensors in enumerate(streams):
        expected = [correlation(x) for x in tensors]
        np.testing.assert_allclose(measured(transport, at), expected, rtol=5e-3, atol=5e-4)
