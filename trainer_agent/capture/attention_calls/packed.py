"""Logits of `multi_head_attention_forward`, which projects, attends and projects in one call."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer_agent.capture.attention_logits import MAX_QUERIES, Sampled, evenly

# Each costs one more product of all its tokens with the key weights.
MAX_PROJECTED = 2

_SIGNATURE = inspect.signature(functional.multi_head_attention_forward)


@torch.no_grad()
def sampled_packed(*args: Any, **kwargs: Any) -> Sampled | None:
    """Some queries and their keys, projected once more; takes what the function takes.

    None where keys are added that are not in `key` (`bias_k`, `add_zero_attn`), are given by the
    caller, or where a parameter is no plain tensor: projecting a sharded one could be a
    collective.
    """
    call = _read(args, kwargs)
    if not _is_understood(call):
        return None
    query, key = (x if x.ndim == 3 else x.unsqueeze(1) for x in (call.query, call.key))
    queries, sequences = evenly(query.shape[0], MAX_QUERIES), evenly(query.shape[1], MAX_PROJECTED)
    (w_q, b_q), (w_k, b_k) = _projections(call)
    q = functional.linear(query[queries, sequences].detach(), w_q, b_q)
    k = functional.linear(key[:, sequences].detach(), w_k, b_k)
    # The condition under which torch itself takes the hint for the mask.
    back_only = call.is_causal and call.key_padding_mask is None and not call.need_weights
    return Sampled(
        query=_heads(q, call.num_heads),
        key=_heads(k, call.num_heads),
        mask=None if back_only else _mask(call, query.shape[1], queries, sequences),
        scale=1 / math.sqrt(q.shape[-1] // call.num_heads),
        future=queries if back_only else None,
    )


def _read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments)


def _is_understood(call: SimpleNamespace) -> bool:
    added = (call.bias_k, call.static_k)
    given = (call.query, call.key, call.in_proj_weight, call.q_proj_weight, call.in_proj_bias)
    plain = all(type(one) in {type(None), Tensor, nn.Parameter} for one in given)
    return plain and not call.add_zero_attn and all(one is None for one in added)


def _projections(call: SimpleNamespace) -> tuple[tuple[Tensor, Tensor | None], ...]:
    # Detached: autocast keeps a parameter's cast for the rest of the pass, in older torch also one
    # made without gradients.
    if call.use_separate_proj_weight:
        weights = call.q_proj_weight.detach(), call.k_proj_weight.detach()
    else:
        weights = call.in_proj_weight.detach().chunk(3)[:2]
    if call.in_proj_bias is None:
        return (weights[0], None), (weights[1], None)
    biases = call.in_proj_bias.detach().chunk(3)
    return (weights[0], biases[0]), (weights[1], biases[1])


def _heads(x: Tensor, n: int) -> Tensor:
    """(seq, batch, features) as (batch, heads, seq, features of a head)."""
    return x.reshape(*x.shape[:2], n, -1).permute(1, 2, 0, 3)


def _mask(call: SimpleNamespace, n: int, queries: slice, sequences: slice) -> Tensor | None:
    """Both masks as numbers to add; they broadcast to (batch', heads, queries', keys)."""
    total = None
    if call.attn_mask is not None:
        mask = call.attn_mask.detach()
        if mask.ndim == 2:
            mask = mask[None, None]
        else:
            mask = mask.reshape(n, call.num_heads, *mask.shape[1:])[sequences]
        total = _added(mask[..., queries, :])
    if call.key_padding_mask is not None:
        padding = call.key_padding_mask.detach().reshape(n, -1)[sequences]
        padding = _added(padding[:, None, None])
        total = padding if total is None else total + padding
    return total


def _added(mask: Tensor) -> Tensor:
    # True keeps a key out here, where `scaled_dot_product_attention` lets it in.
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, device=mask.device).masked_fill_(mask, float("-inf"))
    return mask.float()
