"""A small GPT on random tokens, and a training loop for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

WIDTH, HEADS, SEQ, VOCAB, LAYERS = 16, 2, 8, 32, 3


class Block(nn.Module):
    def __init__(self, p_drop: float) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.dropout, self.heads = nn.Dropout(p_drop), HEADS

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.out(self.attend(self.norm_1(x))))
        return x + self.dropout(self.down(functional.gelu(self.up(self.norm_2(x)))))

    def attend(self, x: Tensor) -> Tensor:
        split = (*x.shape[:2], self.heads, WIDTH // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(x).split(WIDTH, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).reshape(x.shape)


class SmallGPT(nn.Module):
    def __init__(
        self, *, p_drop: float = 0.0, checkpointing: bool | None = None, layers: int = LAYERS
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(SEQ, WIDTH)
        self.blocks = nn.ModuleList([Block(p_drop) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB)
        self.reentrant = checkpointing  # None: no checkpointing

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(self.norm(x))


def batch(seed: int, size: int = 3) -> Tensor:
    """Token ids, (size, SEQ + 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (size, SEQ + 1), generator=generator)


def loss_of(model: nn.Module, ids: Tensor, **kwargs: Any) -> Tensor:
    """Next-token cross-entropy."""
    return loss_of_logits(model(ids[:, :-1], **kwargs), ids[:, 1:])


def loss_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of (batch, seq, vocabulary) with (batch, seq)."""
    return functional.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1))


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor) -> Tensor:
    """One forward, backward and update."""
    loss = loss_of(model, ids)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def built(seed: int = 0, **kwargs: Any) -> tuple[SmallGPT, torch.optim.Optimizer]:
    """A model and its optimizer, always the same for a seed."""
    torch.manual_seed(seed)
    model = SmallGPT(**kwargs)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)
