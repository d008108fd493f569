"""Transformers whose layers are tuples of parts: their forward walks over them and adds them up."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, SEQ, VOCAB = 64, 4, 24, 50


class SelfAttention(nn.Module):
    """Attention written with einsum, tokens before heads; with a norm of its own or without."""

    def __init__(self, width: int, *, normed: bool, causal: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if normed else None
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None:
            x = self.norm(x)
        q, k, v = (t.unflatten(-1, (HEADS, -1)) for t in self.qkv(x).chunk(3, dim=-1))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        return self.out(mixed.flatten(2))


class GainedNorm(nn.Module):
    """A norm without a gain inside one that multiplies by 1 + gamma."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.LayerNorm(width, elementwise_affine=False)
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (self.gamma + 1)


class Add(nn.Module):
    """The sum of a branch and the stream, as a module."""

    def forward(self, branch: Tensor, stream: Tensor) -> Tensor:
        return branch + stream


def feed_forward(width: int, *, normed: bool) -> nn.Sequential:
    maps = [nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.0), nn.Linear(4 * width, width)]
    return nn.Sequential(*([nn.LayerNorm(width)] if normed else []), *maps)


class Pairs(nn.Module):
    """Layers of (attention, feed-forward), each with its norm inside."""

    def __init__(self, depth: int, width: int, *, final: bool, causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [SelfAttention(width, normed=True, causal=causal), feed_forward(width, normed=True)]
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if final else None

    def forward(self, x: Tensor) -> Tensor:
        for attention, forward in self.layers:
            x = attention(x) + x
            x = forward(x) + x
        return x if self.norm is None else self.norm(x)


class Triples(nn.Module):
    """Items of (norms, branch, sum), an attention and a feed-forward layer in turn."""

    def __init__(self, depth: int, width: int, *, placement: str, causal: bool) -> None:
        super().__init__()
        self.placement = placement
        items = []
        for _ in range(depth):
            for branch in (
                SelfAttention(width, normed=False, causal=causal),
                feed_forward(width, normed=False),
            ):
                items.append(nn.ModuleList([nn.ModuleList([GainedNorm(width)]), branch, Add()]))
        self.items = nn.ModuleList(items)
        self.final = GainedNorm(width) if placement == "pre" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for (norm,), branch, add in self.items:
            pre = self.placement == "pre"
            x = add(branch(norm(x)), x) if pre else norm(add(branch(x), x))
        return self.final(x)


Kind = Literal["pairs", "pairs without a final norm", "triples", "triples, post"]


class LanguageModel(nn.Module):
    """Any of them between an embedding and a head, its loss inside."""

    def __init__(self, kind: Kind, depth: int = 4, width: int = WIDTH, causal: bool = True) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, width), nn.Embedding(SEQ, width)
        self.body: Pairs | Triples
        if kind.startswith("pairs"):
            self.body = Pairs(depth, width, final=kind == "pairs", causal=causal)
        else:
            placement = "post" if kind.endswith("post") else "pre"
            self.body = Triples(depth, width, placement=placement, causal=causal)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        logits = self.head(self.body(x))
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def batch(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"ids": torch.randint(VOCAB, (4, SEQ), generator=draw)}


def streams(model: LanguageModel, ids: Tensor) -> list[Tensor]:
    """The stream before, between and behind the layers, computed step by step."""
    x = model.tokens(ids) + model.places.weight[: ids.shape[1]]
    x.retain_grad()
    found = [x]
    body = model.body
    if isinstance(body, Pairs):
        for attention, forward in body.layers:
            x = attention(x) + x
            x = forward(x) + x
            x.retain_grad()
            found.append(x)
        x = x if body.norm is None else body.norm(x)
    else:
        for index, ((norm,), branch, add) in enumerate(body.items):
            pre = body.placement == "pre"
            x = add(branch(norm(x)), x) if pre else norm(add(branch(x), x))
            if index % 2:
                x.retain_grad()
                found.append(x)
        x = body.final(x)
    logits = model.head(x)
    functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return found
