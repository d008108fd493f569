"""The models that train, the text they read, and their learning rates."""

from __future__ import annotations

import ast
import functools
import math
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.theory_models import (
    Batch,
    PlainGPT,
    Shape,
    bert,
    from_config,
    gated_sizes,
    gpt2,
    llama,
    plain_sizes,
)
from examples.stdlib_text import stdlib_bytes

SIZE, CONTEXT = 8, 32
IMAGE, CLASSES = 32, 10
WARM_UP = 20
MASK, MASKED = 2, 0.15

Kind = Literal["text", "masked", "images"]


@dataclass(frozen=True, slots=True)
class Job:
    """One model that trains.

    Attributes:
        name: as tables name it.
        build: makes the model, with fresh weights.
        kind: what its batches hold.
        rate: AdamW's learning rate after the warm-up.
        cycle: steps from one warm restart of a cosine schedule to the next; 0 for none.
        other_text_from: from this step on the text is prose in place of code; 0 for never.
    """

    name: str
    build: Callable[[], nn.Module]
    kind: Kind = "text"
    rate: float = 1e-3
    cycle: int = 0
    other_text_from: int = 0

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        warm = min(1.0, (step + 1) / WARM_UP)
        if not self.cycle:
            return self.rate * warm
        phase = (step % self.cycle) / self.cycle
        return self.rate * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * phase)) / 2)

    def batch(self, step: int, seed: int) -> Batch:
        """The batch of a step: the same for the same step and seed."""
        draw = torch.Generator().manual_seed(1_000_003 * seed + step)
        prose = 0 < self.other_text_from <= step
        if self.kind == "images":
            return _images(_windows(prose, 3 * IMAGE * IMAGE + 1, draw))
        ids = _windows(prose, CONTEXT, draw)
        if self.kind == "masked":
            hidden = torch.rand(ids.shape, generator=draw) < MASKED
            labels = torch.where(hidden, ids, -100)
            return {"input_ids": torch.where(hidden, MASK, ids), "labels": labels}
        return {"input_ids": ids, "labels": ids}


def vit(shape: Shape) -> nn.Module:
    """ViT on images whose pixels are bytes of text."""
    sizes = {"image_size": IMAGE, "patch_size": 8, "num_labels": CLASSES}
    return from_config("ViT", "ForImageClassification", **plain_sizes(shape), **sizes)


def gemma2(shape: Shape) -> nn.Module:
    """Norms before and on each branch."""
    sizes = gated_sizes(shape) | {"head_dim": shape.width // shape.heads}
    return from_config("Gemma2", "ForCausalLM", **sizes, sliding_window=CONTEXT // 2)


def t5(shape: Shape) -> nn.Module:
    """Pre-LN encoder and decoder."""
    sizes = {"d_model": shape.width, "d_kv": shape.width // shape.heads, "d_ff": 4 * shape.width}
    depth = {"num_layers": shape.layers, "num_heads": shape.heads, "decoder_start_token_id": 0}
    return from_config("T5", "ForConditionalGeneration", **sizes, **depth)


def gated(family: str, shape: Shape) -> nn.Module:
    """A causal model with a gated feed-forward layer."""
    return from_config(family, "ForCausalLM", **gated_sizes(shape))


def plain(family: str, shape: Shape, **more: Any) -> nn.Module:
    """A causal model with a plain feed-forward layer."""
    return from_config(family, "ForCausalLM", **plain_sizes(shape), **more)


SMALL = Shape(layers=8, width=64, heads=4)
WIDE = Shape(layers=8, width=96, heads=4)
DEEP = Shape(layers=16, width=64, heads=4)

# The five of the table "while training"; thresholds were chosen on the first three.
TRAINED = (
    Job("GPT-2", lambda: gpt2(SMALL)),
    Job("BERT", lambda: bert(SMALL), kind="masked"),
    Job("Post-LN, DeepScaleLM", lambda: PlainGPT(SMALL, "deepscale")),
    Job("Llama", lambda: llama(SMALL)),
    Job("ViT", lambda: vit(SMALL), kind="images"),
)


def _windows(prose: bool, length: int, draw: torch.Generator) -> Tensor:
    text = _prose() if prose else _code()
    starts = torch.randint(len(text) - length, (SIZE, 1), generator=draw)
    return text[starts + torch.arange(length)].long()


def _images(windows: Tensor) -> Batch:
    pixels = windows[:, :-1].reshape(SIZE, 3, IMAGE, IMAGE).float()
    return {"pixel_values": pixels / 64 - 1, "labels": windows[:, -1] % CLASSES}


@functools.cache
def _code() -> Tensor:
    return stdlib_bytes()


@functools.cache
def _prose() -> Tensor:
    """The docstrings of the same library: English in place of Python."""
    texts = [
        text
        for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        for text in _docstrings(ast.parse(path.read_bytes()))
    ]
    return torch.frombuffer(bytearray("\n\n".join(texts).encode()), dtype=torch.uint8)


def _docstrings(tree: ast.AST) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text
