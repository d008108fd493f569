"""The models that prediction is compared with measurement on, and the batches they take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

import trainer_agent
from examples.byte_gpt import ByteGPT, Sizes, loss_of
from examples.stdlib_text import batches, stdlib_bytes

VOCAB, CONTEXT, BATCH = 256, 128, 8
Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """Depth and width of a model."""

    layers: int
    width: int
    heads: int


@dataclass(frozen=True, slots=True)
class Case:
    """A model to build and the batch that it takes.

    Attributes:
        name: its name in tables.
        build: makes the model, with fresh weights.
        batch: kind of the batch, see `batch_of`.
        bound: whether every draw is held to the bounds. Draws of a model whose tokens collapse
            into one vector scatter too far for that.
        draws: number of draws that the mean is taken over.
        size, context: sequences of a batch, and tokens of a sequence.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: str = "zipf"
    bound: Literal["every draw", "nothing"] = "every draw"
    draws: int = 3
    size: int = BATCH
    context: int = CONTEXT


class PlainGPT(nn.Module):
    """The examples' GPT with its loss inside, so that one call gives gradients too."""

    def __init__(self, shape: Shape, placement: str) -> None:
        super().__init__()
        sizes = Sizes(layers=shape.layers, width=shape.width, heads=shape.heads, context=CONTEXT)
        self.gpt = ByteGPT(sizes, "pre" if placement == "pre" else "post")
        if placement == "deepscale":
            trainer_agent.deepscale(self.gpt)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Logits and the loss of the next byte."""
        logits = self.gpt(input_ids)
        return {"loss": loss_of(logits[:, :-1], labels[:, 1:]), "logits": logits}


def gpt2(shape: Shape, p_drop: float = 0.1, std: float = 0.02) -> nn.Module:
    """GPT-2 from a config, with its own initialisation or a wider one."""
    sizes = {"n_layer": shape.layers, "n_embd": shape.width, "n_head": shape.heads}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), p_drop)
    return from_config(
        "GPT2", "LMHeadModel", n_positions=CONTEXT, initializer_range=std, **sizes, **dropout
    )


def bert(shape: Shape, p_drop: float = 0.1, std: float = 0.02) -> nn.Module:
    """BERT from a config, with its own initialisation or a wider one."""
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    dropout = dict.fromkeys(names, p_drop)
    sizes = plain_sizes(shape) | {"initializer_range": std}
    return from_config("Bert", "ForMaskedLM", **sizes, **dropout)


def llama(shape: Shape, std: float = 0.02) -> nn.Module:
    """Llama from a config, with its own initialisation or a wider one."""
    return from_config("Llama", "ForCausalLM", **gated_sizes(shape), initializer_range=std)


def from_config(family: str, head: str, **options: Any) -> nn.Module:
    """A `transformers` model of that family and head, freshly drawn."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        **{"vocab_size": VOCAB, "use_cache": False, "bos_token_id": 0, "eos_token_id": 0} | options
    )
    model = getattr(transformers, family + head)(config)
    assert isinstance(model, nn.Module)
    return model


def plain_sizes(shape: Shape) -> dict[str, Any]:
    """Sizes of a model with a plain feed-forward layer."""
    return {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
    }


def gated_sizes(shape: Shape) -> dict[str, Any]:
    """Sizes of a model with a gated feed-forward layer and grouped keys and values."""
    return plain_sizes(shape) | {
        "num_key_value_heads": shape.heads // 2,
        "intermediate_size": 8 * shape.width // 3,
    }


def batch_of(case: Case, seed: int, *, size: int = BATCH, context: int = CONTEXT) -> Batch:
    """Ids and labels: the next id, or for "masked" the id under a mask; images for "images"."""
    draw = torch.Generator().manual_seed(seed)
    if case.batch == "images":
        labels = torch.randint(10, (size,), generator=draw)
        return {"pixel_values": torch.randn(size, 3, 64, 64, generator=draw), "labels": labels}
    ids = _text(size, context, seed) if "text" in case.batch else _zipf(size, context, draw)
    if "masked" not in case.batch:
        return {"input_ids": ids, "labels": ids}
    hidden = torch.rand(ids.shape, generator=draw) < 0.15
    return {"input_ids": torch.where(hidden, 2, ids), "labels": torch.where(hidden, ids, -100)}


def _zipf(size: int, context: int, draw: torch.Generator) -> Tensor:
    """Ids drawn by Zipf's law, the k-th with a probability in proportion to 1/k; never 0 to 2."""
    odds = 1.0 / torch.arange(1, VOCAB - 2)
    drawn = torch.multinomial(odds, size * context, replacement=True, generator=draw)
    return 3 + drawn.reshape(size, context)


def _text(size: int, context: int, seed: int) -> Tensor:
    ids, _ = next(iter(batches(_source(), batch=size, context=context, seed=seed)))
    return ids


@functools.cache
def _source() -> Tensor:
    return stdlib_bytes()
