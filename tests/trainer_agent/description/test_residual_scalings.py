"""Residual scalings that people train with, read from home-made models and predicted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dslm
import trainer_agent
from benchmarks.streams import measured

WIDTH, SEQ, LAYERS, VOCAB = 128, 24, 6, 50


class ScaledBlock(nn.Module):
    """norm(lam·x + beta·f(x)) or lam·x + beta·f(scale·norm(x))."""

    def __init__(self, *, post: bool, lam: float, beta: float, scale: float) -> None:
        super().__init__()
        self.post, self.lam, self.beta, self.scale = post, lam, beta, scale
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        for norm, branch in zip(self.norms, (self.attention, self.feed_forward), strict=True):
            if self.post:
                x = norm(self.lam * x + self.beta * branch(x))
            else:
                x = self.lam * x + self.beta * branch(norm(x) * self.scale)
        return x


class Scaled(nn.Module):
    """A stack of scaled blocks, with the weights its scaling asks for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Parameter(torch.randn(SEQ, WIDTH))
        self.blocks = nn.ModuleList(_block(kind, layer) for layer in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        for block in self.blocks:
            for linear in (block.qkv, block.out, block.up, block.down):
                nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
                nn.init.zeros_(linear.bias)
            if kind == "deepnorm":  # a decoder's: (8 N)^(-1/4) on values, output and feed-forward
                for matrix in (block.qkv.weight[-WIDTH:], block.out.weight, block.up.weight):
                    matrix.data.mul_((8 * LAYERS) ** -0.25)
                block.down.weight.data.mul_((8 * LAYERS) ** -0.25)
            if kind == "gpt2":
                for linear in (block.out, block.down):
                    linear.weight.data.mul_((2 * LAYERS) ** -0.5)

    def forward(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x = self.tokens(ids) + self.places
        for block in self.blocks:
            x = block(x)
        return {"loss": functional.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())}


LAM = {"deepnorm": (2 * LAYERS) ** 0.25}
BETA = {"depth mup": LAYERS**-0.5}


def _scale(kind: str, layer: int) -> float:
    return (layer + 1) ** -0.5 if kind == "layernorm scaling" else 1.0


def _block(kind: str, layer: int) -> ScaledBlock:
    return ScaledBlock(
        post=kind == "deepnorm",
        lam=LAM.get(kind, 1.0),
        beta=BETA.get(kind, 1.0),
        scale=_scale(kind, layer),
    )


def batch_of_ids() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCAB, (4, SEQ), generator=draw)
    return {"ids": ids, "labels": ids.roll(-1, 1)}


def test_deepscale_makes_up_for_a_factor_on_norms() -> None:
    torch.manual_seed(0)
    model = Scaled("layernorm scaling")
    nn.init.zeros_(model.places)

    trainer_agent.deepscale(model, batch=batch_of_ids())

    for block in trainer_agent.describe(model, batch_of_ids()).stacks["decoder"].blocks:
        assert block is not None
        assert block.feed_forward_norm.gain_mean == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["deepnorm", "gpt2", "layernorm scaling", "depth mup"])
def test_each_scaling_is_read_and_predicted(kind: str) -> None:
    torch.manual_seed(0)
    model = Scaled(kind)
    batch = batch_of_ids()

    spec = trainer_agent.describe(model, batch)

    assert spec.missing == ()
    for layer, block in enumerate(spec.stacks["decoder"].blocks):
        assert block is not None
        for residual in (block.attention_residual, block.feed_forward_residual):
            assert residual.lam == pytest.approx(LAM.get(kind, 1.0))
            assert residual.beta == pytest.approx(BETA.get(kind, 1.0))
        assert block.attention_norm.gain_mean == pytest.approx(_scale(kind, layer))
        expected = 1 / (2 * LAYERS) if kind == "gpt2" else 1.0
        if kind != "deepnorm":
            assert block.attention.output.weight_var * WIDTH == pytest.approx(expected, rel=0.05)
        else:
            expected = math.sqrt(1 / (8 * LAYERS))
            assert block.attention.value.weight_var * WIDTH == pytest.approx(expected, rel=0.05)
            assert block.attention.query.weight_var * WIDTH == pytest.approx(1.0, rel=0.05)
    stack = dslm.predict(spec).stacks["decoder"]
    measurement = measured(model, [f"blocks.{i}" for i in range(LAYERS)], batch)
    # one draw at d = 128: a layer scatters by sqrt(2/d) = 12 %, and layers add up
    np.testing.assert_allclose(stack.forward.variance, measurement.forward, rtol=0.25)
    np.testing.assert_allclose(stack.backward.variance, measurement.backward, rtol=0.35)
    np.testing.assert_allclose(stack.forward.correlation, measurement.correlation, atol=0.08)
