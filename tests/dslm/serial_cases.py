"""Specs of every kind that JSON has to carry, each field with a value of its own somewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dslm import (
    BlockFlow,
    Carried,
    CrossAttention,
    Experts,
    Head,
    HeadLayer,
    Kernel,
    Labels,
    Linear,
    Missing,
    ModelSpec,
    Norm,
    PositionBias,
    Residual,
    Rotary,
    Site,
    Stack,
)
from tests.dslm.specs import block

INPUT = Kernel(np.array([1.0, 2.0, 0.5]), np.full((3, 3), 0.25), np.array([1, 2, 4]), mean=0.125)
GRADIENT = Kernel(np.ones(3), np.eye(3) / 3, INPUT.cell_sizes)
NORM = Norm("rmsnorm", gain_mean=0.75, gain_var=0.01, bias_var=0.02, eps=1e-6)
RESIDUAL = Residual(lam=0.9, beta=0.4, p_drop=0.1)
BIAS = PositionBias((-1, 0, 3), ((0.0, 1.5, 2), (-0.25, 0.0, 1e-9)), (1, 3))


def _decoder_only() -> ModelSpec:
    plain = block(8, p_drop=0.1, gated=True, activation="silu", norm="rmsnorm")
    attention = replace(
        plain.attention,
        key=Linear(8, 4, 0.01, 0.001),
        value=Linear(8, 4, 0.01, 0.002),
        n_kv_heads=2,
        rotary=Rotary(500.0, 0.5, (0.5,), 1.25),
        query_norm=NORM,
        key_norm=NORM,
        soft_cap=30.0,
        window=2,
    )
    feed_forward = replace(plain.feed_forward, p_drop=0.2)
    plain = replace(plain, attention=attention, feed_forward=feed_forward)
    other = replace(plain, attention_norm=NORM, attention_residual=RESIDUAL)
    blocks = (plain, None, replace(other, feed_forward_norm=NORM, feed_forward_residual=RESIDUAL))
    stack = Stack(8, blocks, INPUT, top_gradient_kernel=GRADIENT, final_norm=NORM, head=_head())
    missing = (Missing("decoder.blocks[1]", "a mixture of experts", "not covered ☃"),)
    return ModelSpec("llama", {"decoder": stack}, missing, 3, 1234, ("a note", "NaN"))


def _head() -> Head:
    layers = (HeadLayer(Linear(8, 8, 0.1), "gelu", NORM, 0.1), HeadLayer(norm=NORM))
    labels = Labels(0.25, GRADIENT, GRADIENT, same_id=GRADIENT, label_is_id=GRADIENT)
    return Head(layers, Linear(8, 11, 0.02), labels, scale=0.5, soft_cap=15.0, tied=0.7)


def _encoder_decoder() -> ModelSpec:
    plain = block(8, placement="sandwich", causal=False)
    encoder = Stack(8, (plain,), INPUT, final_norm=NORM, final_p_drop=0.1)
    cross = CrossAttention(plain.attention, NORM, RESIDUAL, out_norm=NORM)
    decoder = Stack(8, (replace(plain, cross=cross),), INPUT, reads="encoder")
    return ModelSpec("t5", {"encoder": encoder, "decoder": decoder})


def _biased() -> ModelSpec:
    plain = block(8, placement="parallel", activation="tanh")
    biased = replace(plain.attention, position_bias=BIAS, prefix=2)
    return ModelSpec("custom", {"decoder": Stack(8, (replace(plain, attention=biased),), INPUT)})


def _overflowing() -> ModelSpec:
    plain = block(8, placement="post", activation="relu")
    attention = replace(plain.attention, query=Linear(8, 8, math.inf), key=Linear(8, 8, math.nan))
    kernel = replace(INPUT, diagonal=np.array([1e300, np.nan, np.inf]), mean=-math.inf)
    return ModelSpec("bert", {"encoder": Stack(8, (replace(plain, attention=attention),), kernel)})


def _measured_inside() -> ModelSpec:
    spec = _biased()
    flow = BlockFlow(
        {"in": Site(2.0, 0.5, 0.25), "attention.value": Site(0.125)},
        {"in": Site(1e-12), "out": Site(2.5e-12, 1e-9, 1e-14)},
        {"attention.mixed": "not seen"},
    )
    return replace(spec, flows={"decoder": (flow,), "encoder": (None,)})


def _routed() -> ModelSpec:
    plain = block(8, gated=True, activation="silu", norm="rmsnorm")
    shared = replace(plain.feed_forward, up_offset=1.0)
    experts = Experts(
        router=Linear(8, 6, 0.02, 0.001),
        top_k=2,
        gate="sigmoid",
        normalised=False,
        scale=2.5,
        groups=3,
        top_groups=2,
        shared=shared,
        shared_gate=Linear(8, 1, 0.03),
    )
    routed = replace(
        plain,
        attention=replace(plain.attention, sink=1.5),
        feed_forward=replace(plain.feed_forward, experts=experts),
    )
    carried = (None, Carried(2.5, 0.125, 0.25, 1.75))
    return ModelSpec("custom", {"decoder": Stack(8, (routed, None), INPUT, carried=carried)})


SPECS = {
    "decoder only": _decoder_only(),
    "encoder and decoder": _encoder_decoder(),
    "position bias": _biased(),
    "numbers that overflowed": _overflowing(),
    "measured inside": _measured_inside(),
    "routed and carried": _routed(),
}
