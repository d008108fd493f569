"""Specs of small models, built from sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import dslm
from dslm import Attention, Block, FeedForward, Kernel, Linear, ModelSpec, Norm, Residual, Stack


def kernel(seq_len: int, var: float = 1.0, corr: float = 0.3) -> Kernel:
    off = np.full((seq_len, seq_len), corr * var)
    return Kernel(np.full(seq_len, var), off, np.ones(seq_len, dtype=np.int64))


def block(
    d: int = 128,
    *,
    placement: str = "pre",
    causal: bool = True,
    activation: str = "gelu",
    gated: bool = False,
    norm: str = "layernorm",
    std: float = 0.08,
    p_drop: float = 0.0,
) -> Block:
    def dense(d_in: int, d_out: int) -> Linear:
        return Linear(d_in, d_out, std**2)

    attention = Attention(
        *(dense(d, d) for _ in range(4)), 4, 4, d // 4, causal, (d // 4) ** -0.5, p_drop=p_drop
    )
    gate = dense(d, 2 * d) if gated else None
    feed_forward = FeedForward(dense(d, 2 * d), dense(2 * d, d), activation, gate)  # type: ignore[arg-type]
    layer_norm, residual = Norm(norm), Residual(p_drop=p_drop)  # type: ignore[arg-type]
    return Block(
        placement,  # type: ignore[arg-type]
        attention,
        layer_norm,
        residual,
        feed_forward,
        layer_norm,
        residual,
        *(layer_norm if placement == "sandwich" else None,) * 2,
    )


def stack(n_layers: int = 3, seq_len: int = 32, d: int = 128, **how: Any) -> Stack:
    return Stack(d, (block(d, **how),) * n_layers, kernel(seq_len))


def spec_of(decoder: Stack, batch_size: int = 8) -> ModelSpec:
    return ModelSpec("custom", {"decoder": decoder}, batch_size=batch_size)


def predict(decoder: Stack, batch_size: int = 8) -> dslm.StackPrediction:
    return dslm.predict(spec_of(decoder, batch_size)).stacks["decoder"]


def with_input(decoder: Stack, input_kernel: Kernel) -> Stack:
    return replace(decoder, input_kernel=input_kernel)
