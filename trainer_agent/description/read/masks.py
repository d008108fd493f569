"""What an attention mask lets through: everything, the past, a window, a prefix, or another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_agent.description.trace.graph import UnrecognisedError
from trainer_agent.description.trace.tracer import Node


def let_through(mask: Tensor) -> Tensor:
    """Pairs a mask lets through; what an additive one says is far below all else is kept out."""
    return mask if mask.dtype == torch.bool else mask > -1e3


@dataclass(frozen=True, slots=True)
class Sight:
    """What a token sees; fields as in `dslm.spec.Attention`."""

    causal: bool
    window: int | None = None
    prefix: int = 0


def sight(node: Node, allowed: Tensor) -> Sight:
    """Which tokens each token sees: all, the past, a window, or the past and a prefix.

    `allowed` is (..., seq, seq), true at pairs let through. Columns of padding are left out,
    sequence by sequence, and with them the rows of padding.
    """
    pairs = allowed.reshape(-1, *allowed.shape[-2:])
    queries, keys = pairs.shape[-2:]
    if queries == 1 and keys > 1:
        pairs = pairs.expand(-1, keys, keys)
    real = pairs.any(-2)
    if queries not in {1, keys}:
        if torch.equal(pairs, real.unsqueeze(-2).expand_as(pairs)):
            return Sight(causal=False)
        raise UnrecognisedError(node, "attention mask", f"{queries} queries see {keys} keys")
    square = real.unsqueeze(-1) & real.unsqueeze(-2)
    if torch.equal(pairs & square, square):
        return Sight(causal=keys == 1)
    back, ahead = _reach(pairs & square)
    if not torch.equal(pairs & square, square & _band(pairs[0], back, ahead)):
        return Sight(causal=True, prefix=_prefix(node, pairs & square, square))
    if ahead == 0:
        return Sight(causal=True, window=back + 1 if back + 1 < keys else None)
    if ahead != back:
        raise UnrecognisedError(node, "attention mask", "a window of unequal reach to either side")
    return Sight(causal=False, window=back)


def _prefix(node: Node, pairs: Tensor, square: Tensor) -> int:
    """How many first tokens all see, where the rest is causal; else raises."""
    n_visible = int(pairs[:, 0].any(0).sum())
    prefix = torch.arange(pairs.shape[-1], device=pairs.device) < n_visible
    if not torch.equal(pairs, square & (torch.ones_like(pairs[0]).tril() | prefix)):
        raise UnrecognisedError(
            node, "attention mask", "neither full, causal, a window nor a prefix: packed documents"
        )
    return n_visible


def _reach(pairs: Tensor) -> tuple[int, int]:
    """How far back, and how far ahead, the token that sees furthest sees."""
    positions = torch.arange(pairs.shape[-1], device=pairs.device)
    distance = (positions[:, None] - positions[None, :])[pairs.any(0)]
    return int(distance.max()), -int(distance.min())


def _band(like: Tensor, back: int, ahead: int) -> Tensor:
    return torch.ones_like(like).triu(-back).tril(ahead)
