"""What an attention mask lets through: everything, the past, or something else."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import UnrecognisedError
from .trace import Node


def let_through(node: Node, mask: Tensor) -> Tensor:
    """Pairs a mask lets through; an additive mask must be 0 or far below at each pair."""
    if mask.dtype == torch.bool:
        return mask
    allowed = mask > -1e3
    if bool(mask[allowed].ne(0).any()):
        raise UnrecognisedError(
            node, "position bias", "something besides a mask is added to the attention scores"
        )
    return allowed


def is_causal(node: Node, allowed: Tensor) -> bool:
    """Whether token i sees tokens up to i; False where it sees all of them.

    `allowed` is (..., seq, seq), true at pairs let through. Columns of padding are left out,
    sequence by sequence, and with them the rows of padding.
    """
    pairs = allowed.reshape(-1, *allowed.shape[-2:])
    queries, keys = pairs.shape[-2:]
    if queries == 1 and keys > 1:
        pairs = pairs.expand(-1, keys, keys)
    elif queries != keys:
        raise UnrecognisedError(node, "attention mask", f"{queries} queries see {keys} keys")
    real = pairs.any(-2)
    square = real.unsqueeze(-1) & real.unsqueeze(-2)
    lower = torch.ones_like(pairs[0]).tril()
    if torch.equal(pairs & square, square):
        return keys == 1
    if torch.equal(pairs & square, square & lower):
        return True
    raise UnrecognisedError(
        node, "attention mask", "neither full nor causal: a window, a prefix or packed documents"
    )
