"""Logits of `nn.MultiheadAttention` against projections done by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.trainer_agent.recording import RecordingTransport, recorded
from trainer_agent.capture.attention.function_mode import AttentionFunctionMode
from trainer_agent.capture.statistics.logits import logits_of

WIDTH, HEADS, SEQ, VOCAB = 16, 2, 7, 20


def sampled(call: Any) -> list[Tensor]:
    """Logits that the function mode samples of whatever `call` computes."""
    samples: list[Tensor] = []

    def observe(take: Any) -> None:
        sample = take()
        if sample is not None:
            samples.append(logits_of([sample])[0])

    with AttentionFunctionMode(observe):
        call()
    return samples


def by_hand(attention: nn.MultiheadAttention, query: Tensor, key: Tensor) -> Tensor:
    """Unmasked logits, (batch, heads, queries, keys); inputs are batch first."""
    if attention.in_proj_weight is None:
        w_q, w_k = attention.q_proj_weight, attention.k_proj_weight
    else:
        w_q, w_k, _ = attention.in_proj_weight.chunk(3)
    b_q, b_k, _ = attention.in_proj_bias.chunk(3)
    q, k = functional.linear(query, w_q, b_q), functional.linear(key, w_k, b_k)
    q, k = (x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (q, k))
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


def attention_of(**options: Any) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
    nn.init.normal_(attention.in_proj_bias)
    return attention


FUTURE = torch.ones(SEQ, SEQ, dtype=torch.bool).triu(1)
PADDED = torch.arange(SEQ) >= torch.tensor([[5], [7]])
BY_HEAD = torch.rand(2 * HEADS, SEQ, SEQ, generator=torch.Generator().manual_seed(0)) > 0.6
MASKS: dict[str, tuple[dict[str, Any], Tensor]] = {
    "none": ({}, torch.zeros(1, dtype=torch.bool)),
    "boolean": ({"attn_mask": FUTURE}, FUTURE),
    "added": ({"attn_mask": torch.zeros(SEQ, SEQ).masked_fill(FUTURE, -math.inf)}, FUTURE),
    "hint": ({"attn_mask": FUTURE, "is_causal": True, "need_weights": False}, FUTURE),
    "by head": ({"attn_mask": BY_HEAD}, BY_HEAD.view(2, HEADS, SEQ, SEQ)),
    "padding": ({"key_padding_mask": PADDED}, PADDED[:, None, None]),
    "both": (
        {"attn_mask": FUTURE, "is_causal": True, "key_padding_mask": PADDED},
        FUTURE | PADDED[:, None, None],
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_packed_logits_are_those_of_projections_by_hand(kind: str) -> None:
    attention, x = attention_of(), torch.randn(2, SEQ, WIDTH)
    arguments, hidden = MASKS[kind]

    (logits,) = sampled(lambda: attention(x, x, x, **arguments))

    assert torch.allclose(
        logits, by_hand(attention, x, x).masked_fill(hidden, -math.inf), atol=1e-5
    )


def test_packed_logits_are_sampled_from_four_sequences_and_eight_queries() -> None:
    attention, x = attention_of(), torch.randn(9, 20, WIDTH)

    (logits,) = sampled(lambda: attention(x, x, x))

    full = by_hand(attention, x, x)
    assert torch.allclose(logits, full[2::3][:, :, [1, 4, 7, 10, 13, 16, 19]], atol=1e-5)


def test_packed_logits_under_autocast_are_those_of_the_job() -> None:
    attention, x = attention_of(), torch.randn(2, SEQ, WIDTH)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        (logits,) = sampled(lambda: attention(x, x, x))
        full = by_hand(attention, x, x).detach().float()

    assert torch.allclose(logits, full, atol=0.02 * float(full.abs().max()))  # 2**-9 a rounding


def test_separate_projections_and_keys_of_another_width_are_understood() -> None:
    attention = attention_of(kdim=6, vdim=6)
    x, memory = torch.randn(2, 5, WIDTH), torch.randn(2, 3, 6)

    (logits,) = sampled(lambda: attention(x, memory, memory))

    assert torch.allclose(logits, by_hand(attention, x, memory), atol=1e-5)


def test_a_single_sequence_without_a_batch_is_understood() -> None:
    attention, x = attention_of(), torch.randn(SEQ, WIDTH)

    (logits,) = sampled(lambda: attention(x, x, x, attn_mask=FUTURE))

    full = by_hand(attention, x[None], x[None]).masked_fill(FUTURE, -math.inf)
    assert torch.allclose(logits, full, atol=1e-5)


@pytest.mark.parametrize("added", ["add_bias_kv", "add_zero_attn"])
def test_keys_that_are_added_leave_the_call_out(added: str) -> None:
    attention, x = attention_of(**{added: True}), torch.randn(2, SEQ, WIDTH)

    assert sampled(lambda: attention(x, x, x)) == []


@pytest.mark.parametrize("kdim", [None, WIDTH + 1])
def test_gradients_under_autocast_are_untouched(kdim: int | None) -> None:
    attention, x = attention_of(kdim=kdim), torch.randn(2, SEQ, WIDTH)
    memory = torch.randn(2, SEQ, kdim or WIDTH)
    watched = copy.deepcopy(attention)

    def backward(of: nn.MultiheadAttention) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            of(x, memory, memory if kdim is None else x)[0].float().square().sum().backward()

    backward(attention)
    assert len(sampled(lambda: backward(watched))) == 1

    pairs = zip(attention.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(parameter.grad, other.grad) for parameter, other in pairs)  # type: ignore[arg-type]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.stack = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.head(self.stack(self.embedding(ids), mask=mask, is_causal=True))


class Decoder(nn.Module):
    """Its layers attend to themselves, then to a memory."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 32, dropout=0.0, batch_first=True)
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.stack = nn.TransformerDecoder(layer, 2)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        return self.head(self.stack(x, 3 * x))


def ids(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(VOCAB, (2, SEQ), generator=generator)


def loss_of(model: nn.Module, step: int) -> Tensor:
    return functional.cross_entropy(model(ids(step)).flatten(0, 1), ids(step).flatten())


def trained(kind: type[nn.Module], folder: Path | None) -> tuple[Any, RecordingTransport | None]:
    torch.manual_seed(0)
    model = kind()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    agent, transport = recorded(model, folder) if folder else (None, None)
    for step in range(5):
        loss = loss_of(model, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if agent is not None:
            agent.step(loss=loss)
    if agent is not None:
        agent.close()
    return model, transport


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_weights_of_packed_models_are_bit_identical_with_the_agent(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    bare, _ = trained(kind, None)
    watched, transport = trained(kind, tmp_path)

    pairs = zip(bare.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(weight, watched_weight) for weight, watched_weight in pairs)
    assert np.isfinite(transport.series("decoder/attention_logits/entropy")).all()


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_packed_logits_of_a_model_are_those_of_self_attention(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = kind()
    expected: list[float] = []

    def note(attention: Any, args: Any, kwargs: Any, _output: Any) -> None:
        logits = by_hand(attention, args[0], args[1]).detach()
        if kwargs.get("attn_mask") is not None:
            logits = logits + kwargs["attn_mask"]
        expected.append(float(logits.max()))

    for layer in model.stack.layers:
        layer.self_attn.register_forward_hook(note, with_kwargs=True)
    agent, transport = recorded(model, tmp_path)
    loss_of(model, 1).backward()
    agent.step()
    agent.close()

    maxima = transport.series("decoder/attention_logits/max")
    assert maxima == pytest.approx(expected[-len(maxima) :], rel=1e-4)
