"""Logits of `multi_head_attention_forward`: projections and attention in one call."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer_agent.capture.statistics.logits import (
    MAX_QUERIES,
    MAX_SEQUENCES,
    QuerySample,
    evenly,
    future,
)

_SIGNATURE = inspect.signature(functional.multi_head_attention_forward)


@torch.no_grad()
def sampled_multihead(*args: Any, **kwargs: Any) -> QuerySample | None:
    """The scores of some queries with all their keys; takes what the function takes.

    They are computed once more, from inputs and weights rounded as the job rounds them; the keys
    are not rounded a second time. None where keys are added that are not in `key` (`bias_k`,
    `add_zero_attn`) or passed ready-made, and where a parameter is no plain tensor: a product with
    a sharded one could be a collective.
    """
    call = _read(args, kwargs)
    if not _is_understood(call):
        return None
    query, key = (x if x.ndim == 3 else x.unsqueeze(1) for x in (call.query, call.key))
    queries, sequences = evenly(query.shape[0], MAX_QUERIES), evenly(query.shape[1], MAX_SEQUENCES)
    weights, biases = _projections(call)
    q = functional.linear(query[queries, sequences].detach(), weights[0], biases[0])
    q = q.reshape(*q.shape[:2], call.num_heads, -1).permute(1, 2, 0, 3)
    keys = as_multiplied(key[:, sequences].detach()).transpose(0, 1)
    with torch.autocast(q.device.type, enabled=False):
        scores = _scores(q.to(keys), keys, as_multiplied(weights[1]), biases[1])
    # The condition under which torch itself takes the hint for the mask.
    if call.is_causal and call.key_padding_mask is None and not call.need_weights:
        scores.masked_fill_(future(queries, key.shape[0], key.device), float("-inf"))
    else:
        _add_masks(scores, call, query.shape[1], queries, sequences)
    of = query.shape[1], query.shape[0]
    return QuerySample(query=scores, key=None, mask=None, scale=1.0, future=None, of=of)


def _scores(q: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """q·(W x + b) / sqrt(d_head) as (Wᵀ q)·x + q·b: no key is projected.

    Eight queries a head are fewer than the features of a head, so this takes fewer products.

    Args:
        q: (batch', heads, queries', d_head).
        x: what keys are projected from, (batch', keys, features).
        weight: (heads * d_head, features).
    """
    heads, d_head = q.shape[1], q.shape[-1]
    q = q / math.sqrt(d_head)
    onto_x = q @ weight.reshape(heads, d_head, -1)
    scores = (onto_x.flatten(1, 2) @ x.transpose(-2, -1)).reshape(*q.shape[:3], -1)
    if bias is not None:
        scores += (q * bias.reshape(heads, 1, d_head)).sum(-1, keepdim=True)
    return scores


def _read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments)


def _is_understood(call: SimpleNamespace) -> bool:
    tensors = (call.query, call.key, call.in_proj_weight, call.q_proj_weight, call.in_proj_bias)
    plain = all(type(tensor) in {type(None), Tensor, nn.Parameter} for tensor in tensors)
    return plain and not call.add_zero_attn and call.bias_k is None and call.static_k is None


def _projections(call: SimpleNamespace) -> tuple[tuple[Tensor, Tensor], tuple[Any, Any]]:
    """Weights and biases that make queries and keys."""
    # Detached: autocast caches a parameter's cast for the rest of the pass, and older torch caches
    # one made without gradients, too, which would cut the job's graph.
    if call.use_separate_proj_weight:
        of_query, of_key = call.q_proj_weight.detach(), call.k_proj_weight.detach()
    else:
        of_query, of_key, _ = call.in_proj_weight.detach().chunk(3)
    if call.in_proj_bias is None:
        return (of_query, of_key), (None, None)
    biases = call.in_proj_bias.detach().chunk(3)
    return (of_query, of_key), biases[:2]


def _add_masks(
    scores: Tensor, call: SimpleNamespace, n: int, queries: slice, sequences: slice
) -> None:
    if call.attn_mask is not None:
        mask = call.attn_mask.detach()
        if mask.ndim == 3:
            mask = mask.reshape(n, call.num_heads, *mask.shape[1:])[sequences]
        _add(scores, mask[..., queries, :])
    if call.key_padding_mask is not None:
        _add(scores, call.key_padding_mask.detach().reshape(n, 1, 1, -1)[sequences])


def _add(scores: Tensor, mask: Tensor) -> None:
    # True keeps a key out here, where `scaled_dot_product_attention` lets it in.
    if mask.dtype == torch.bool:
        scores.masked_fill_(mask, float("-inf"))
    else:
        scores += mask


def as_multiplied(x: Tensor) -> Tensor:
    """`x` rounded to what autocast multiplies in, where it is on; as float32, or float64."""
    if x.dtype == torch.float64:
        return x
    kind = x.device.type
    return (x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x).float()
