"""What a user says by hand is heeded: fields, blocks not found, blocks that cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dslm
import trainer_agent
from benchmarks.streams import measured
from dslm import Residual, SpecError
from tests.trainer_agent.description.home_made import (
    HEADS,
    VOCAB,
    Block,
    FeedForward,
    Model,
    WrittenAttention,
    batch,
)
from tests.trainer_agent.recording import recorded
from trainer_agent import Hint
from trainer_agent.description.hints import HintError
from trainer_agent.errors import WatchError

WIDE = 128


class RingAttention(torch.autograd.Function):
    """A kernel outside torch: nobody sees its softmax or its products."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        a, b, c = (t.detach().numpy() for t in (q, k, v))
        scores = a @ b.swapaxes(-1, -2) * a.shape[-1] ** -0.5
        weights = np.exp(scores) * np.tri(a.shape[-2])
        mixed = weights / weights.sum(-1, keepdims=True) @ c
        return torch.from_numpy(mixed.astype(np.float32))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            out = functional.scaled_dot_product_attention(*inputs, is_causal=True)
            return torch.autograd.grad(out, inputs, grads[0])


class RingBlock(nn.Module):
    """Pre-LN with half a residual step for attention, whose kernel torch cannot see into."""

    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(WIDE), nn.LayerNorm(WIDE)
        self.qkv = nn.Linear(WIDE, 3 * WIDE, bias=False)
        self.out = nn.Parameter(torch.randn(WIDE, WIDE) * 0.05)
        self.up, self.down = nn.Linear(WIDE, 4 * WIDE), nn.Linear(4 * WIDE, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(self.n1(x)).chunk(3, -1)
        )
        mixed = RingAttention.apply(q, k, v).transpose(1, 2).flatten(2)
        x = x + 0.5 * (mixed @ self.out)
        return x + self.down(functional.gelu(self.up(self.n2(x))))


class RingModel(nn.Module):
    """Blocks as attributes: no list of alike modules to find them by."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDE)
        self.block_a, self.block_b, self.block_c = (RingBlock() for _ in range(3))
        self.head = nn.Linear(WIDE, VOCAB)

    def forward(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.block_c(self.block_b(self.block_a(self.tokens(ids)))))
        return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}


RING = Hint(
    blocks="block_?",
    modules={
        "attention.query": f"qkv[0:{WIDE}]",
        "attention.key": f"qkv[{WIDE}:{2 * WIDE}]",
        "attention.value": f"qkv[{2 * WIDE}:{3 * WIDE}]",
        "attention.output": "out.T",
        "attention_norm": "n1",
        "feed_forward.up": "up",
        "feed_forward.down": "down",
        "feed_forward_norm": "n2",
    },
    fields={
        "placement": "pre",
        "attention.n_heads": HEADS,
        "attention.causal": True,
        "attention_residual.beta": 0.5,
        "feed_forward.activation": "gelu",
    },
)


def plain() -> Model:
    torch.manual_seed(0)
    return Model(*(Block(WrittenAttention(), FeedForward()) for _ in range(2)))


def blocks_of(model: nn.Module, *hints: Hint) -> tuple[dslm.Block | None, ...]:
    return trainer_agent.describe(model, batch(), hints=hints).stacks["decoder"].blocks


def test_fields_are_what_the_user_says_on_the_blocks_that_match() -> None:
    said = {"attention.window": 4, "attention_residual": Residual(beta=0.5, p_drop=0.25)}

    first, second = blocks_of(plain(), Hint("blocks.1", fields=said))

    assert first is not None and second is not None
    assert (first.attention.window, second.attention.window) == (None, 4)
    assert second.attention_residual == Residual(beta=0.5, p_drop=0.25)
    assert second.attention.query == blocks_of(plain())[1].attention.query  # type: ignore[union-attr]


def test_a_stack_is_named_by_hand() -> None:
    hint = Hint("blocks.*", stack="encoder", fields={"attention.causal": False})

    stacks = trainer_agent.describe(plain(), batch(), hints=(hint,)).stacks

    assert set(stacks) == {"encoder"}
    assert all(b is not None and not b.attention.causal for b in stacks["encoder"].blocks)


def test_blocks_that_cannot_be_read_are_predicted_from_a_hint() -> None:
    torch.manual_seed(0)
    model = RingModel()

    alone = trainer_agent.describe(model, batch())
    spec = trainer_agent.describe(model, batch(), hints=(RING,))

    assert not alone.stacks
    assert alone.missing
    assert not [m for m in spec.missing if "block" in m.where]
    stack = dslm.predict(spec).stacks["decoder"]
    measurement = measured(model, ("block_a", "block_b", "block_c"), batch())
    # one draw at d = 128 scatters by 12 % a layer
    np.testing.assert_allclose(stack.forward.variance, measurement.forward, rtol=0.2)
    np.testing.assert_allclose(stack.backward.variance, measurement.backward, rtol=0.3)
    np.testing.assert_allclose(stack.forward.correlation, measurement.correlation, atol=0.06)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Hint(""), "blocks"),
        (lambda: Hint("b.*", stack="middle"), "stack"),  # type: ignore[arg-type]
        (lambda: Hint("b.*", modules={"attention": "attn"}), "modules['attention']"),
        (lambda: Hint("b.*", fields={"attention.n_headz": 2}), "fields['attention.n_headz']"),
        (lambda: Hint("b.*", fields={"attention.causal": 1}), "fields['attention.causal']"),
        (lambda: Hint("b.*", fields={"placement": "middle"}), "fields['placement']"),
    ],
)
def test_a_hint_of_no_meaning_is_refused_by_field(make: Any, field: str) -> None:
    with pytest.raises(HintError) as raised:
        make()
    assert raised.value.field == field


def without(part: str, name: str) -> Hint:
    said = {"modules": dict(RING.modules), "fields": dict(RING.fields)}
    del said[part][name]
    return Hint(RING.blocks, **said)


@pytest.mark.parametrize(
    ("hint", "field"),
    [
        (Hint("layers.*"), "hints[0].blocks"),
        (without("fields", "attention.n_heads"), "fields['attention.n_heads']"),
        (without("modules", "feed_forward.up"), "modules['feed_forward.up']"),
        (Hint("block_?", {**RING.modules, "attention_norm": "up"}, RING.fields), "modules"),
        (Hint("block_?", {**RING.modules, "attention.query": "qkv[9:999]"}, RING.fields), "mod"),
        (Hint("block_?", RING.modules, {**RING.fields, "attention.n_heads": 3}), "fields"),
        (
            Hint("block_?", RING.modules, {**RING.fields, "attention.rotary.theta": 5.0}),
            "fields['attention.rotary.theta']",
        ),
    ],
)
def test_a_hint_that_does_not_fit_the_model_is_refused_by_field(hint: Hint, field: str) -> None:
    with pytest.raises(HintError) as raised:
        trainer_agent.describe(RingModel(), batch(), hints=(hint,))
    assert raised.value.field.startswith(field)


def test_hints_that_make_an_impossible_model_are_refused() -> None:
    with pytest.raises(SpecError, match="window"):
        blocks_of(plain(), Hint("blocks.*", fields={"attention.window": 0}))


@pytest.mark.parametrize(
    ("hint", "path"),
    [
        (Hint("decoder.blocks.*"), "blocks.*"),
        (Hint("blocs.*"), "blocks.*"),
        (Hint("blocks.*", modules={"attention_norm": "block.ln1"}), "ln1"),
    ],
)
def test_the_refusal_of_a_hint_names_the_path_that_was_meant(hint: Hint, path: str) -> None:
    with pytest.raises(WatchError, match=f"the nearest is '{re.escape(path)}'"):
        trainer_agent.watch(plain(), project="p", run="r", hints=(hint,))


@pytest.mark.parametrize("hint", [Hint("layers.*"), "blocks.*"])
def test_watch_refuses_hints_at_once(hint: Any) -> None:
    with pytest.raises(WatchError, match="hints"):
        trainer_agent.watch(plain(), project="p", run="r", hints=(hint,))


def test_a_watched_model_is_described_and_measured_by_its_hints(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RingModel()
    agent, transport = recorded(model, tmp_path, hints=(RING,))

    loss = model(**batch())["loss"]
    loss.backward()
    agent.step(loss=loss)
    agent.close()

    stack = dslm.spec_from_json(transport.revisions[0].spec).stacks["decoder"]
    assert [b is not None and b.attention_residual.beta for b in stack.blocks] == [0.5] * 3
    measured_curve = transport.series("decoder/stream/variance", at=0)
    predicted = dslm.predict(dslm.ModelSpec("custom", {"decoder": stack})).stacks["decoder"]
    assert predicted.forward.variance == pytest.approx(measured_curve, rel=0.2)  # one draw
