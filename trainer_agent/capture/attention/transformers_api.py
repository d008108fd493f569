"""Logits of the attention functions that models of `transformers` look up by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer_agent.capture.attention.flex import sampled_flex
from trainer_agent.capture.statistics.logits import (
    MAX_QUERIES,
    MAX_SEQUENCES,
    QuerySample,
    evenly,
    sampled_logits,
)

FLEX = "flex_attention"
# Arguments that the library passes to every function, and that do not change the logits.
_INERT = frozenset(
    {
        "cache_position",
        "deterministic",
        "dropout",
        "kernel_options",
        "logits_to_keep",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "past_key_values",
        "position_embeddings",
        "return_dict",
        "target_dtype",
        "use_cache",
    }
)


def sampled_transformers(  # noqa: PLR0917  the order is the library's
    name: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    *unnamed: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    position_ids: Tensor | None = None,
    **more: Any,
) -> QuerySample | None:
    """Some queries and their keys, by the library's conventions on the arguments.

    A mask of 4 axes says all; without one attention looks back where `is_causal` or the module
    says so, and no farther than `sliding_window`; flash attention takes both beside a mask of
    padding. None where an argument is passed whose meaning is not among them.
    """
    if unnamed or query.ndim != 4 or _has_unread(more):
        return None
    if name == FLEX and not isinstance(attention_mask, Tensor):
        cap = None if softcap is None else _capped(softcap)
        return sampled_flex(query, key, value, cap, attention_mask, scaling)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if "flash" in name:
        packed = _packed(position_ids, query, attention_mask)
        call = _flash(
            query, key, padding=attention_mask, packed=packed, causal=causal, window=sliding_window
        )
    elif name == FLEX and attention_mask.dtype == torch.bool:
        return None  # added to the scores there, as ones and zeros
    else:
        call = _plain(query, key, attention_mask, causal=causal, window=sliding_window)
    if call is None:
        return None
    scale = call.scale if scaling is None else scaling
    return replace(call, scale=scale, cap=softcap)


def _has_unread(more: dict[str, Any]) -> bool:
    return any(
        value is not None and value is not False and name not in _INERT
        for name, value in more.items()
    )


def _capped(cap: float) -> Any:
    return lambda score, *_where: cap * torch.tanh(score / cap)


def _plain(
    query: Tensor, key: Tensor, mask: Tensor | None, *, causal: bool, window: int | None
) -> QuerySample | None:
    if mask is not None:
        if mask.ndim != 4:
            return None
        return sampled_logits(query, key, key, mask[..., : key.shape[-2]])
    if causal and query.shape[-2] != key.shape[-2]:
        return None  # whether the first or the last tokens are aligned is not said
    if window is None or window >= key.shape[-2]:
        return sampled_logits(query, key, key, is_causal=causal)
    return _flash(query, key, causal=True, window=window) if causal else None


def _flash(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool,
    window: int | None,
    padding: Tensor | None = None,
    packed: Tensor | None = None,
) -> QuerySample | None:
    """Masks are built of the sampled queries alone; a padded query is none, and sees no key."""
    if query.shape[-2] != key.shape[-2]:
        return None
    if padding is not None and padding.shape != (query.shape[0], key.shape[-2]):
        return None
    queries = evenly(query.shape[-2], MAX_QUERIES)
    positions = torch.arange(key.shape[-2], device=key.device)
    back = positions[queries, None] - positions
    allowed = (back >= 0 if causal else torch.ones_like(back, dtype=torch.bool))[None, None]
    if window is not None:
        allowed = allowed & (back.abs() < window)
    if packed is not None:
        allowed = allowed & (packed[queries, None] == packed)
    if padding is not None:
        real = padding.detach()[evenly(query.shape[0], MAX_SEQUENCES)].bool()[:, None]
        allowed = allowed & real[..., None, :] & real[..., queries, None]
    return replace(sampled_logits(query, key, key), mask=allowed)


def _packed(position_ids: Tensor | None, query: Tensor, mask: Tensor | None) -> Tensor | None:
    """Which of several sequences in one row each token belongs to, where flash attention looks."""
    if position_ids is None or mask is not None or query.shape[0] != 1:
        return None
    if position_ids.shape != (1, query.shape[-2]):
        return None
    return (position_ids == position_ids.min()).flatten().cumsum(0)
