"""Attention calls that are torch functions: a mode on torch's stack sees them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from trainer_agent.capture.attention.multihead import sampled_multihead
from trainer_agent.capture.statistics.logits import QuerySample, sampled_logits, sampled_scores

Observe = Callable[[Callable[[], QuerySample | None]], None]
# Scores of three axes as (batch, heads, queries, keys), None where they are no attention.
Separate = Callable[[Tensor], Tensor | None]


class AttentionFunctionMode(TorchFunctionMode):
    """Passes every torch call on unchanged and shows `observe` the logits of attention ones.

    Sees `scaled_dot_product_attention` (q and k arrive after rotary embedding and QK-norm),
    `multi_head_attention_forward`, which `nn.MultiheadAttention` calls, and a plain softmax over
    (batch, heads, queries, keys), or over (batch x heads, queries, keys) if `separate` can tell.
    """

    def __init__(self, observe: Observe, separate: Separate | None = None) -> None:
        super().__init__()
        self._observe, self._separate = observe, separate
        self._calls_s = 0.0

    def take_calls_s(self) -> float:
        """Seconds inside the calls, and observing them, since this was asked last."""
        calls_s, self._calls_s = self._calls_s, 0.0
        return calls_s

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Observe, then call."""
        if torch.compiler.is_compiling():  # there is no clock inside a graph
            return self._observe_and_call(func, args, kwargs or {})
        began = time.perf_counter()
        result = self._observe_and_call(func, args, kwargs or {})
        self._calls_s += time.perf_counter() - began
        return result

    def _observe_and_call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        if func in _ATTENTION:
            self._sample(func, args, kwargs)
        return func(*args, **kwargs)

    def _sample(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> None:
        if func is functional.scaled_dot_product_attention:
            self._observe(partial(sampled_logits, *args, **kwargs))
        elif func is functional.multi_head_attention_forward:
            self._observe(partial(sampled_multihead, *args, **kwargs))
        # A softmax over four axes is attention by hand; over fewer it may be a router or the loss.
        elif isinstance(args[0], Tensor) and args[0].ndim in {3, 4}:
            scores = self._four_axes(args[0])
            if scores is not None:
                self._observe(partial(sampled_scores, scores))

    def _four_axes(self, scores: Tensor) -> Tensor | None:
        if scores.ndim == 4 or self._separate is None:
            return scores if scores.ndim == 4 else None
        return self._separate(scores)


_ATTENTION = frozenset(
    {
        functional.scaled_dot_product_attention,
        functional.multi_head_attention_forward,
        functional.softmax,
        torch.softmax,
        Tensor.softmax,
    }
)
