"""Small home-made transformers, each written as somebody would write it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, SEQ, VOCAB = 32, 4, 12, 50


class RMSNorm(nn.Module):
    """RMSNorm in float32 with a gain, as in many code bases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        unit = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * unit.type_as(x)


class WrittenAttention(nn.Module):
    """Attention spelled out, with a mask buffer and dropout on the weights."""

    def __init__(self, causal: bool = True, p_drop: float = 0.1) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(p_drop)
        mask = torch.ones(SEQ, SEQ).tril() if causal else torch.ones(SEQ, SEQ)
        self.register_buffer("mask", mask.bool())

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, width = x.shape
        q, k, v = self.qkv(x).split(width, dim=2)
        q, k, v = (t.view(batch, seq, HEADS, width // HEADS).transpose(1, 2) for t in (q, k, v))
        scores = self.scores(q, k).masked_fill(~self.mask[:seq, :seq], float("-inf"))
        mixed = self.drop(functional.softmax(scores, dim=-1)) @ v
        return self.proj(mixed.transpose(1, 2).contiguous().view(batch, seq, width))


class BiasedAttention(WrittenAttention):
    """ALiBi: a penalty growing with distance; or one that depends on the keys themselves."""

    def __init__(self, by_content: bool = False) -> None:
        super().__init__()
        self.by_content = by_content

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        if self.by_content:
            return super().scores(q, k) * k.square().sum(-1).unsqueeze(-2)
        at = torch.arange(q.shape[-2])
        return super().scores(q, k) - 0.5 * (at[:, None] - at[None]).abs()


class CappedAttention(WrittenAttention):
    """Scores squashed by tanh."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return 0.05 * torch.tanh(super().scores(q, k) / 0.05)


class WindowedAttention(WrittenAttention):
    """Each token sees the last three, or two to either side."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__(causal)
        self.mask = self.mask & torch.ones(SEQ, SEQ).triu(-2).tril(2).bool()


class PrefixAttention(WrittenAttention):
    """Every token sees the first three, and the past."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = self.mask | (torch.arange(SEQ) < 3)


class PackedAttention(WrittenAttention):
    """Two documents in a sequence, which do not see each other."""

    def __init__(self) -> None:
        super().__init__()
        document = torch.arange(SEQ) // 5
        self.mask = self.mask & (document[:, None] == document[None, :])


class NormedAttention(WrittenAttention):
    """A norm on queries, and on keys."""

    def __init__(self, keys: bool = True) -> None:
        super().__init__()
        self.keys = keys

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        q = functional.layer_norm(q, q.shape[-1:])
        return super().scores(q, functional.layer_norm(k, k.shape[-1:]) if self.keys else k)


class RotaryAttention(nn.Module):
    """Interleaved rotary embedding by complex numbers, grouped keys and values."""

    def __init__(self, theta: float = 500.0, stretch: float = 1.0) -> None:
        super().__init__()
        d_head = WIDTH // HEADS
        self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.kv_proj = nn.Linear(WIDTH, WIDTH, bias=False)  # two heads of keys, two of values
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        rates = theta ** (-torch.arange(0, d_head, 2).float() / d_head)
        rates[1] *= stretch
        angles = torch.outer(torch.arange(SEQ).float(), rates)
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def rotate(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        turned = pairs * self.turns[: x.shape[1], None]
        return torch.view_as_real(turned).flatten(3).type_as(x)

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, _ = x.shape
        d_head = WIDTH // HEADS
        q = self.rotate(self.q_proj(x).view(batch, seq, HEADS, d_head))
        k, v = self.kv_proj(x).view(batch, seq, HEADS, d_head).chunk(2, dim=2)
        k, v = (t.repeat_interleave(2, dim=2) for t in (self.rotate(k), v))
        mixed = functional.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in (q, k, v)), is_causal=True
        )
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, seq, WIDTH))


class FeedForward(nn.Module):
    """Two maps with a functional activation."""

    def __init__(self, activation: str = "gelu") -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, 4 * WIDTH)
        self.proj = nn.Linear(4 * WIDTH, WIDTH)
        self.activation = activation

    def act(self, u: Tensor) -> Tensor:
        if self.activation == "gelu by hand":
            return 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))
        if self.activation == "sine":
            return torch.sin(u)
        if self.activation == "quick gelu":
            return u * torch.sigmoid(1.702 * u)
        if self.activation == "relu squared":
            return functional.relu(u).square()
        if self.activation == "gelu tanh":
            return functional.gelu(u, approximate="tanh")
        activated = getattr(functional, self.activation)(u)
        assert isinstance(activated, Tensor)
        return activated

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(functional.dropout(self.act(self.fc(x)), 0.2, self.training))


class GatedFeedForward(nn.Module):
    """SwiGLU with gate and up fused into one map."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up = nn.Linear(WIDTH, 6 * WIDTH, bias=False)
        self.down = nn.Linear(3 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


class Experts(nn.Module):
    """Each token goes to one of two feed-forward layers; by the score itself or its cube."""

    def __init__(self, cubed: bool = False) -> None:
        super().__init__()
        self.cubed = cubed
        self.router = nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(FeedForward() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.router(x).softmax(-1).topk(1, dim=-1)
        weight = weight**3 if self.cubed else weight
        mixed = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            mixed = mixed + expert(x) * (chosen == i) * weight
        return mixed


class Block(nn.Module):
    """A residual block with its norms where `placement` says, residual scales and dropout."""

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        placement: str = "pre",
        norm: type[nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.ln1, self.ln2, self.ln3, self.ln4 = (norm(WIDTH) for _ in range(4))
        self.attn, self.mlp = attention, feed_forward
        self.drop = nn.Dropout(0.1)
        self.placement, self.lam, self.beta = placement, 1.0, 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.placement == "parallel":
            both = self.drop(self.attn(self.ln1(x))) + self.drop(self.mlp(self.ln2(x)))
            return self.lam * x + self.beta * both
        if self.placement != "post":
            x = self.lam * x + self.beta * self.drop(self.branch(x, self.attn, self.ln1, self.ln3))
            return self.lam * x + self.beta * self.drop(
                self.branch(x, self.mlp, self.ln2, self.ln4)
            )
        x = self.ln1(self.drop(self.attn(x)) * self.beta + x * self.lam)
        return self.ln2(torch.add(x * self.lam, self.drop(self.mlp(x)), alpha=self.beta))

    def branch(self, x: Tensor, branch: nn.Module, norm: nn.Module, second: nn.Module) -> Tensor:
        """The branch with its norms: before it, on it, or both."""
        if self.placement == "pre":
            return branch(norm(x))
        return norm(branch(x)) if self.placement == "branch" else second(branch(norm(x)))


class Model(nn.Module):
    """Embedding, blocks, head."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.positions = nn.Embedding(SEQ, WIDTH)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        x = self.drop(self.tokens(ids) + self.positions(torch.arange(ids.shape[1])))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.final_norm(x))
        if labels is None:
            return {"logits": logits}
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"logits": logits, "loss": loss}


def batch() -> dict[str, Tensor]:
    """Two sequences of random ids."""
    ids = torch.randint(0, VOCAB, (2, SEQ), generator=torch.Generator().manual_seed(0))
    return {"ids": ids, "labels": ids}
