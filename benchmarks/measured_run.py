"""Small training runs that yield the series of every step, as the alert rules receive them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import trainer_agent

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from byte_gpt import ByteGPT, Sizes, loss_of
from stdlib_text import batches, stdlib_bytes

CONTEXT, BATCH, WIDTH, HEADS = 64, 16, 64, 4
STACK = "decoder"
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """One run: its model, its training, and the fault that it has, if any."""

    name: str
    variant: str = "pre-ln"
    layers: int = 24
    steps: int = 160
    seed: int = 0
    rate: float = 3e-4
    jump_at: int | None = None  # from this step on the learning rate is 300 times too high
    half_scale: float | None = None  # the middle block's output passes through half precision
    twin: str | None = None  # the healthy run on the same data
    healthy: bool = False
    n_saved: int = 0  # steps that --save keeps


def build(recipe: Recipe) -> ByteGPT:
    torch.manual_seed(recipe.seed)
    placement = "pre" if recipe.variant == "pre-ln" else "post"
    model = ByteGPT(Sizes(recipe.layers, WIDTH, HEADS, CONTEXT), placement)
    if recipe.variant == "post-ln-deepscale":
        trainer_agent.deepscale(model)
    return model


def batches_of(recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    return batches(stdlib_bytes(), batch=BATCH, context=CONTEXT, seed=recipe.seed)


def measured(recipe: Recipe, model: ByteGPT) -> Iterator[Values]:
    """Train, and yield the series of each step before the optimizer changes the weights."""
    values: Values = {}
    _hook(model, values, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.0)
    for step, (inputs, targets) in enumerate(islice(batches_of(recipe), recipe.steps)):
        for group in optimizer.param_groups:
            group["lr"] = _rate(recipe, step)
        optimizer.zero_grad()
        loss = loss_of(model(inputs), targets)
        loss.backward()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        values["/loss/value"] = np.array([loss.item()])
        values["/gradient_norm/value"] = np.array([torch.stack(norms).norm().item()])
        yield {key: vector.copy() for key, vector in values.items()}
        optimizer.step()


def _rate(recipe: Recipe, step: int) -> float:
    jumped = recipe.jump_at is not None and step >= recipe.jump_at
    return recipe.rate * min(1.0, (step + 1) / 20) * (300 if jumped else 1)


def _hook(model: ByteGPT, values: Values, recipe: Recipe) -> None:
    n_layers = len(model.blocks)
    note_stream = _stream_recorder(values, n_layers)
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: note_stream(0, inputs[0]))
    for index, block in enumerate(model.blocks):
        if recipe.half_scale is not None and index == n_layers // 2:
            block.register_forward_hook(_through_half(recipe.half_scale))
        block.register_forward_hook(_after(note_stream, index + 1))
        block.attention.qkv.register_forward_hook(_logit_recorder(values, n_layers, index))


def _stream_recorder(values: Values, n_layers: int) -> Callable[[int, Tensor], None]:
    def note(site: str, index: int, x: Tensor) -> None:
        for quantity, value in _moments(x.detach()).items():
            key = f"{STACK}/{site}/{quantity}"
            values.setdefault(key, np.full(n_layers + 1, np.nan))[index] = value

    def note_both(index: int, x: Tensor) -> None:
        note("stream", index, x)
        x.register_hook(lambda gradient: note("stream_gradient", index, gradient))

    return note_both


def _moments(x: Tensor) -> dict[str, float]:
    """Variance, correlation between tokens and share of NaN and Inf of a (batch, seq, width)."""
    x = x.double()
    mean, length = x.mean(), x.shape[1]
    variance = x.square().mean() - mean**2
    pairs = x.sum(1).square().sum() - x.square().sum()
    between = pairs / (x.shape[0] * length * (length - 1) * x.shape[2]) - mean**2
    return {
        "variance": variance.item(),
        "correlation": (between / variance).item(),
        "nonfinite": (~x.isfinite()).double().mean().item(),
    }


def _after(note: Callable[[int, Tensor], None], index: int) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: object, x: Tensor) -> None:
        note(index, x)

    return hook


def _through_half(scale: float) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _inputs: object, x: Tensor) -> Tensor:
        return (x * scale).half().float() / scale

    return hook


def _logit_recorder(values: Values, n_layers: int, index: int) -> Callable[..., None]:
    visible = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril()

    def hook(_module: nn.Module, _inputs: object, qkv: Tensor) -> None:
        # a quarter of the batch is enough for a maximum and a mean, at a quarter of the cost
        heads = qkv.detach()[:4].unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        logits = heads[0] @ heads[1].transpose(-1, -2) / heads.shape[-1] ** 0.5
        shares = logits.masked_fill(~visible, -torch.inf).softmax(-1)
        entropy = torch.special.entr(shares).sum(-1).mean()
        for quantity, value in (("max", logits[..., visible].max()), ("entropy", entropy)):
            key = f"{STACK}/attention_logits/{quantity}"
            values.setdefault(key, np.full(n_layers, np.nan))[index] = value.item()

    return hook
