"""A byte-level GPT in plain PyTorch: Pre-LN or Post-LN, with residual scales that can be set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

N_BYTES = 256
Placement = Literal["pre", "post"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a `ByteGPT`: blocks, width of the stream, heads, and bytes of context."""

    layers: int = 24
    width: int = 64
    heads: int = 4
    context: int = 64


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused projection for q, k and v."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.out = nn.Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; `x` is (batch, seq, width)."""
        batch, seq, width = x.shape
        heads = self.qkv(x).view(batch, seq, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, seq, width))


class FeedForward(nn.Module):
    """Two dense layers with a GELU between them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.up = nn.Linear(sizes.width, 4 * sizes.width)
        self.activation = nn.GELU()
        self.down = nn.Linear(4 * sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position by itself; `x` is (batch, seq, width)."""
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """Attention, then feed-forward, each added to the stream as ``lam * x + beta * branch``."""

    def __init__(self, sizes: Sizes, placement: Placement) -> None:
        super().__init__()
        self.placement = placement
        self.lam = 1.0
        self.beta = 1.0
        self.attention_norm = nn.LayerNorm(sizes.width)
        self.attention = Attention(sizes)
        self.feed_forward_norm = nn.LayerNorm(sizes.width)
        self.feed_forward = FeedForward(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """One step of the stream; `x` is (batch, seq, width)."""
        if self.placement == "pre":
            x = self.lam * x + self.beta * self.attention(self.attention_norm(x))
            return self.lam * x + self.beta * self.feed_forward(self.feed_forward_norm(x))
        x = self.attention_norm(self.lam * x + self.beta * self.attention(x))
        return self.feed_forward_norm(self.lam * x + self.beta * self.feed_forward(x))


class ByteGPT(nn.Module):
    """A decoder over bytes with learned positions.

    Post-LN normalises the embedding, as BERT does, so that the stream has unit variance from
    the first block on; Pre-LN normalises once after the last block.
    """

    def __init__(self, sizes: Sizes, placement: Placement) -> None:
        super().__init__()
        self.tokens = nn.Embedding(N_BYTES, sizes.width)
        self.positions = nn.Embedding(sizes.context, sizes.width)
        self.embedding_norm = nn.LayerNorm(sizes.width) if placement == "post" else nn.Identity()
        self.blocks = nn.ModuleList(Block(sizes, placement) for _ in range(sizes.layers))
        self.final_norm = nn.LayerNorm(sizes.width) if placement == "pre" else nn.Identity()
        self.head = nn.Linear(sizes.width, N_BYTES, bias=False)
        self.apply(xavier)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits over the next byte, (batch, seq, 256), for ids (batch, seq)."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        x = self.embedding_norm(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.final_norm(x))


def xavier(module: nn.Module) -> None:
    """Xavier weights, zero biases, and embeddings that add up to unit variance."""
    if isinstance(module, nn.Linear):
        fused = 3 if module.out_features == 3 * module.in_features else 1
        for weight in module.weight.chunk(fused):  # q, k and v are three square matrices
            nn.init.xavier_normal_(weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.5**0.5)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of the next byte, in nats."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
