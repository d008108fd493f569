"""Logits of `flex_attention`: its score and mask functions on the sampled queries alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer_agent.capture.attention.multihead import as_multiplied
from trainer_agent.capture.statistics.logits import MAX_QUERIES, MAX_SEQUENCES, QuerySample, evenly

_AXES = ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None))


@torch.no_grad()
def sampled_flex(  # noqa: PLR0917  the order is torch's
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001
    score_mod: Callable[..., Tensor] | None = None,
    block_mask: Any = None,
    scale: float | None = None,
    *_more: Any,
    **_options: Any,
) -> QuerySample:
    """The scores of some queries with all their keys; takes what `flex_attention` takes.

    In the precision of its own reference: float32, float64 for float64.
    """
    of = query.shape[0], query.shape[-2]
    picked = evenly(query.shape[0], MAX_SEQUENCES), evenly(query.shape[-2], MAX_QUERIES)
    key = key.detach().expand(query.shape[0], *key.shape[1:])[picked[0]]
    query, key = as_multiplied(query.detach()[picked[0]][:, :, picked[1]]), as_multiplied(key)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    with torch.autocast(query.device.type, enabled=False):
        scores = query @ key.transpose(-2, -1)
        scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        scores = _modified(scores, picked, score_mod, getattr(block_mask, "mask_mod", None))
    return QuerySample(query=scores, key=None, mask=None, scale=1.0, future=None, of=of)


def _modified(
    scores: Tensor,
    picked: tuple[slice, slice],
    score_mod: Callable[..., Tensor] | None,
    mask_mod: Callable[..., Tensor] | None,
) -> Tensor:
    # vmap cannot index by a tensor that it took apart: this turns x[i] into an operator that can.
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    indices = _indices(scores, *picked)
    with TransformGetItemToIndex():
        allowed = None if mask_mod is None else _vectorized(mask_mod)(*indices)
        if score_mod is not None:
            scores = _vectorized(score_mod, 0)(scores, *indices)
    return scores if allowed is None else scores.masked_fill(~allowed, float("-inf"))


def _indices(scores: Tensor, sequences: slice, queries: slice) -> tuple[Tensor, ...]:
    """Batch, head, query and key of each score, as they count in the whole call."""
    n, heads, rows, keys = scores.shape
    steps = ((sequences, n), (queries, rows))
    picked = [
        torch.arange(count, device=scores.device) * (step.step or 1) + (step.start or 0)
        for step, count in steps
    ]
    head, key = (torch.arange(count, device=scores.device) for count in (heads, keys))
    return picked[0], head, picked[1], key


def _vectorized(function: Callable[..., Tensor], *scored: int) -> Callable[..., Tensor]:
    """A function of one score and its indices, for all scores: it may index tensors by them."""
    for axes in _AXES:
        function = torch.vmap(function, in_dims=(*scored, *axes))
    return function
