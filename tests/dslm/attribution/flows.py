"""Specs whose blocks hold drawn flows: any measured numbers are attributed whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dslm import Block, BlockFlow, CrossAttention, Linear, ModelSpec, Norm, Site, Stack
from tests.dslm.specs import block, kernel

LINEAR_NAMES = ("query", "key", "value", "output")
INSIDE = {
    "attention": ("in", "query", "key", "value", "average", "mixed", "output"),
    "cross": ("in", "query", "key", "value", "average", "mixed", "output"),
    "feed_forward": ("in", "up", "gate", "hidden", "output"),
}


def sites(drawn: Block) -> tuple[str, ...]:
    """All sites that a block of its kind can have."""
    steps = [s for s in INSIDE if s != "cross" or drawn.cross is not None]
    names = ["in", "out", *(f"{step}.{name}" for step in steps for name in INSIDE[step])]
    if drawn.feed_forward.gate is None:
        names.remove("feed_forward.gate")
    if drawn.placement in ("sandwich", "branch"):
        names += [f"{step}.normed" for step in steps]
    if drawn.placement == "post":
        names += [f"{step}.sum" for step in steps]
    if drawn.placement != "parallel":
        names += [f"{step}.stream" for step in steps[:-1]]
    return tuple(names)


def drawn_flow(rng: np.random.Generator, of: Block) -> BlockFlow:
    """A flow of independent numbers."""
    names = sites(of)
    forward = {name: Site(_positive(rng), 0.01, 0.001) for name in names}
    returned = [f"{step}.returned" for step in INSIDE if step != "cross" or of.cross is not None]
    backward = {name: Site(_positive(rng), 0.02) for name in (*names, *returned)}
    return BlockFlow(forward, backward)


def drawn_spec(
    rng: np.random.Generator, placement: str, *, gated: bool, crossed: bool, n: int = 3
) -> ModelSpec:
    """A stack of blocks with drawn sizes and flows."""
    blocks = tuple(_drawn_block(rng, placement, gated=gated, crossed=crossed) for _ in range(n))
    flows = tuple(drawn_flow(rng, b) for b in blocks)
    stacks = {"decoder": Stack(16, blocks, kernel(8), reads="encoder" if crossed else None)}
    if crossed:
        stacks["encoder"] = Stack(16, (block(16, causal=False),), kernel(8))
    return ModelSpec("custom", stacks, flows={"decoder": flows})


def _drawn_block(rng: np.random.Generator, placement: str, *, gated: bool, crossed: bool) -> Block:
    plain = block(16, placement=placement, gated=gated)
    maps = {name: _drawn(rng, getattr(plain.attention, name)) for name in LINEAR_NAMES}
    attention = replace(plain.attention, **maps)
    layer = plain.feed_forward
    layer = replace(layer, up=_drawn(rng, layer.up), down=_drawn(rng, layer.down))
    norm = Norm("layernorm", _positive(rng), _positive(rng), _positive(rng))
    second = norm if placement == "sandwich" else None
    cross = CrossAttention(attention, norm, plain.attention_residual, second) if crossed else None
    return replace(
        plain,
        attention=attention,
        feed_forward=layer,
        attention_norm=norm,
        feed_forward_norm=norm,
        cross=cross,
    )


def _drawn(rng: np.random.Generator, linear: Linear) -> Linear:
    return replace(linear, weight_var=_positive(rng), bias_var=float(rng.choice([0.0, 0.3])))


def _positive(rng: np.random.Generator) -> float:
    return float(np.exp(rng.normal()))
