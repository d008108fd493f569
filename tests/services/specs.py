"""A small model's spec."""

from __future__ import annotations

import numpy as np

from dslm import Attention, Block, FeedForward, Kernel, Linear, ModelSpec, Norm, Residual, Stack

WIDTH = 64
SEQ_LEN = 16


def post_ln(n_layers: int, weight_var: float = 1 / WIDTH) -> ModelSpec:
    """A Post-LN decoder of this depth, its weights of this variance."""
    dense = Linear(WIDTH, WIDTH, weight_var)
    attention = Attention(
        query=dense,
        key=dense,
        value=dense,
        output=dense,
        n_heads=4,
        n_kv_heads=4,
        d_head=WIDTH // 4,
        causal=True,
        score_scale=(WIDTH // 4) ** -0.5,
    )
    wide = Linear(WIDTH, 4 * WIDTH, weight_var)
    narrow = Linear(4 * WIDTH, WIDTH, weight_var / 4)
    norm, residual = Norm("layernorm"), Residual()
    block = Block(
        placement="post",
        attention=attention,
        attention_norm=norm,
        attention_residual=residual,
        feed_forward=FeedForward(wide, narrow, "gelu"),
        feed_forward_norm=norm,
        feed_forward_residual=residual,
    )
    off = np.full((SEQ_LEN, SEQ_LEN), 0.2)
    kernel = Kernel(np.ones(SEQ_LEN), off, np.ones(SEQ_LEN, dtype=np.int64))
    return ModelSpec("custom", {"decoder": Stack(WIDTH, (block,) * n_layers, kernel)})
