"""Statistics of attention logits, seen through the attention call itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

MAX_QUERIES = 8
MAX_SEQUENCES = 4
# Masks written as numbers use very negative ones in place of -inf.
MASKED_BELOW = -1e9

Observe = Callable[[Callable[[], Tensor]], None]


class AttentionView(TorchFunctionMode):
    """Passes every torch call on unchanged and shows `observe` the logits of attention ones.

    Sees `scaled_dot_product_attention` (q and k arrive after rotary embedding and QK-norm) and a
    plain softmax over (batch, heads, queries, keys). Anything fused otherwise stays unseen.
    """

    def __init__(self, observe: Observe) -> None:
        super().__init__()
        self._observe = observe

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Look, then call."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._observe(partial(sampled_logits, *args, **kwargs))
        elif func in _SOFTMAX and _is_attention(args):
            self._observe(partial(_sample, args[0]))
        return func(*args, **kwargs)


_SOFTMAX = frozenset({F.softmax, torch.softmax, Tensor.softmax})


def _is_attention(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].ndim == 4


@torch.no_grad()
def sampled_logits(  # noqa: PLR0917  the order is torch's
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """q·k·scale of some queries, -inf where masked; (batch', heads, queries', keys) float32.

    Takes what `scaled_dot_product_attention` takes.
    """
    queries = _evenly(query.shape[-2], MAX_QUERIES, query.device)
    sequences = _evenly(query.shape[0], MAX_SEQUENCES, query.device)
    some = query[sequences][..., queries, :].float()
    keys = key[sequences].float()
    if enable_gqa:
        keys = keys.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    logits = some @ keys.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal:
        future = torch.arange(key.shape[-2], device=key.device) > queries.unsqueeze(-1)
        logits = logits.masked_fill(future, float("-inf"))
    if attn_mask is None:
        return logits
    whole = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    mask = whole[sequences][..., queries, :]
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, float("-inf"))
    return logits + mask


@torch.no_grad()
def logit_sums(logits: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Count, sum, squares, entropy count, entropy sum; and the maximum, of allowed logits."""
    allowed = ~(logits <= MASKED_BELOW)  # NaN counts as allowed: it is data
    kept = torch.where(allowed, logits, 0.0)
    log_weights = torch.log_softmax(torch.where(allowed, logits, float("-inf")), dim=-1)
    entropy = -(log_weights.exp() * torch.where(allowed, log_weights, 0.0)).sum(-1)
    rows = allowed.any(-1)
    sums = [
        allowed.sum(),
        kept.sum(dtype=wide),
        kept.square().sum(dtype=wide),
        rows.sum(),
        torch.where(rows, entropy, 0.0).sum(dtype=wide),
    ]
    largest = torch.where(allowed, logits, float("-inf")).amax()
    return torch.stack([one.to(wide) for one in sums]), largest


@torch.no_grad()
def _sample(scores: Tensor) -> Tensor:
    queries = _evenly(scores.shape[-2], MAX_QUERIES, scores.device)
    return scores[_evenly(scores.shape[0], MAX_SEQUENCES, scores.device)][:, :, queries].float()


def _evenly(n: int, most: int, device: torch.device) -> Tensor:
    """Up to `most` indices spread over n, the last one always among them."""
    if n <= most:
        return torch.arange(n, device=device)
    return (torch.arange(1, most + 1, device=device) * n) // most - 1
