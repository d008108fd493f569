"""Other `transformers` families are recognised by structure, and their streams predicted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dslm
import trainer_agent
from benchmarks.streams import measured
from tests.trainer_agent.description.more_families import BUILDERS, SEQ, WINDOW, batch_for
from trainer_agent.description import BlockParts, architecture

KNOWN = {
    "mistral": ("pre", "silu", "rmsnorm"),
    "qwen2": ("pre", "silu", "rmsnorm"),
    "qwen3": ("pre", "silu", "rmsnorm"),
    "olmo2": ("branch", "silu", "rmsnorm"),
    "gemma2": ("sandwich", "gelu_tanh", "rmsnorm"),
    "opt": ("pre", "relu", "layernorm"),
    "gpt_neox": ("parallel", "gelu", "layernorm"),
    "phi": ("parallel", "gelu_tanh", "layernorm"),
    "gemma": ("pre", "gelu_tanh", "rmsnorm"),
    "roberta": ("post", "gelu", "layernorm"),
    "vit": ("pre", "gelu", "layernorm"),
    "llama_yarn": ("pre", "silu", "rmsnorm"),
    "bloom": ("pre", "gelu_tanh", "layernorm"),
    "mpt": ("pre", "gelu", "layernorm"),
}
WHOLE_HEAD = ("mistral", "qwen2", "qwen3", "olmo2", "gemma2", "gemma", "llama_yarn")
FRACTIONS = {"gpt_neox": 0.25, "phi": 0.5} | dict.fromkeys(WHOLE_HEAD, 1.0)


def first_block(name: str) -> BlockParts:
    """The first block of a two-layer model, understood whole."""
    recognised = architecture(BUILDERS[name](2, 64), (), batch_for(name))
    assert recognised.missing == ()
    (stack,) = recognised.stacks
    assert None not in stack.parts
    parts = stack.parts[0]
    assert parts is not None
    return parts


@pytest.mark.parametrize("name", BUILDERS)
def test_family_is_recognised_by_structure(name: str) -> None:
    parts = first_block(name)

    assert (parts.placement, parts.feed_forward.activation, parts.attention_norm.kind) == KNOWN[
        name
    ]
    assert parts.causal == (name not in {"roberta", "vit"})
    scale = 256**-0.5 if name == "gemma2" else 16**-0.5
    assert parts.attention.score_scale == pytest.approx(scale, rel=1e-4)
    rotary = parts.attention.rotary
    assert (rotary and rotary.fraction) == FRACTIONS.get(name)


def test_windows_caps_and_norms_on_queries_are_found() -> None:
    mistral, gemma2 = first_block("mistral").attention, first_block("gemma2").attention
    qwen3, olmo2 = first_block("qwen3").attention, first_block("olmo2").attention

    assert (mistral.window, gemma2.window) == (WINDOW, WINDOW)
    assert gemma2.soft_cap == pytest.approx(50.0, rel=1e-3)
    assert qwen3.query_norm is not None
    assert qwen3.query_norm.weight == "model.layers.0.self_attn.q_norm.weight"
    assert olmo2.key_norm is not None
    assert olmo2.key_norm.weight == "model.layers.0.self_attn.k_norm.weight"


@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_alibi_slopes_are_the_models_own(name: str) -> None:
    bias = first_block(name).attention.position_bias

    assert bias is not None
    assert bias.observed.distances == (0, SEQ - 1)
    slopes = [(near - far) / (SEQ - 1) for near, far in bias.observed.values]
    assert slopes == pytest.approx(dslm.alibi_slopes(4), rel=1e-4)


@pytest.mark.parametrize("name", BUILDERS)
def test_family_is_predicted_within_one_draws_scatter(name: str) -> None:
    torch.manual_seed(0)
    model = BUILDERS[name](6, 128).train()
    batch = batch_for(name)
    spec = trainer_agent.describe(model, batch)
    (stack,) = dslm.predict(spec).stacks.values()
    blocks = architecture(model, (), batch).stacks[0].blocks

    measurement = measured(model, blocks, batch)

    forward = np.abs(stack.forward.variance / measurement.forward - 1)
    backward = np.abs(stack.backward.variance / measurement.backward - 1)
    # one draw at d = 128: a layer scatters by sqrt(2/d) = 12 %, and layers add up
    assert np.median(forward) < 0.15
    assert np.median(backward) < 0.2
    assert max(forward.max(), backward.max()) < 0.5
    assert np.abs(stack.forward.correlation - measurement.correlation).max() < 0.1
