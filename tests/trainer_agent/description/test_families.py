"""GPT-2, BERT and Llama from configs are recognised whole, fused attention or written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dslm.spec import Residual, Rotary
from trainer_agent.description import Architecture, BlockParts, architecture

SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 50}
IMPLEMENTATIONS = ("sdpa", "eager")


def gpt2(implementation: str, **options: object) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2, n_embd=64, n_head=4, vocab_size=50, attn_implementation=implementation, **options
    )
    return GPT2LMHeadModel(config)


def bert(implementation: str, **options: object) -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        **SIZES, intermediate_size=128, attn_implementation=implementation, **options
    )
    return BertForMaskedLM(config)


def llama(implementation: str, **options: object) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    options = {"num_key_value_heads": 2, **options}
    config = LlamaConfig(
        **SIZES, intermediate_size=96, attn_implementation=implementation, **options
    )
    return LlamaForCausalLM(config)


def padded() -> dict[str, Tensor]:
    """Two sequences, the second shorter."""
    ids = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([[16], [11]])
    return {"input_ids": ids, "attention_mask": (torch.arange(16) < lengths).long()}


def whole(recognised: Architecture, name: str) -> BlockParts:
    """The first block's parts of a model understood whole, with one stack of that name."""
    assert recognised.missing == ()
    assert [s.name for s in recognised.stacks] == [name]
    assert None not in recognised.stacks[0].parts
    parts = recognised.stacks[0].parts[0]
    assert parts is not None
    return parts


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gpt2_is_recognised(implementation: str) -> None:
    recognised = architecture(gpt2(implementation), (), padded())

    parts = whole(recognised, "decoder")
    assert recognised.family == "gpt2"
    assert recognised.stacks[0].blocks == ("transformer.h.0", "transformer.h.1")
    assert (parts.placement, parts.causal, parts.feed_forward.activation) == (
        "pre",
        True,
        "gelu_tanh",
    )
    assert parts.attention_residual == Residual(p_drop=0.1)
    assert parts.feed_forward_residual == Residual(p_drop=0.1)
    assert parts.attention.p_drop == pytest.approx(0.1)
    assert parts.attention.score_scale == pytest.approx(0.25, rel=1e-5)
    key = parts.attention.key
    assert (key.module, key.outputs, key.input_first) == (
        "transformer.h.0.attn.c_attn",
        ((64, 128),),
        True,
    )
    assert parts.attention_norm.weight == "transformer.h.0.ln_1.weight"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bert_is_recognised(implementation: str) -> None:
    recognised = architecture(bert(implementation), (), padded())

    parts = whole(recognised, "encoder")
    assert recognised.family == "bert"
    assert (parts.placement, parts.causal, parts.feed_forward.activation) == ("post", False, "gelu")
    assert parts.attention_norm.weight == "bert.encoder.layer.0.attention.output.LayerNorm.weight"
    assert parts.feed_forward_norm.weight == "bert.encoder.layer.0.output.LayerNorm.weight"
    assert parts.attention.output.module == "bert.encoder.layer.0.attention.output.dense"
    assert (parts.feed_forward.up.d_out, parts.feed_forward.down.d_in) == (128, 128)
    assert parts.attention_norm.eps == pytest.approx(1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_llama_is_recognised(implementation: str, theta: float) -> None:
    rope = {"rope_type": "default", "rope_theta": theta}
    recognised = architecture(llama(implementation, rope_parameters=rope), (), padded())

    parts = whole(recognised, "decoder")
    assert recognised.family == "llama"
    assert (parts.placement, parts.causal, parts.feed_forward.activation) == ("pre", True, "silu")
    assert parts.attention.rotary == Rotary(theta=theta)
    assert (parts.attention.n_heads, parts.attention.n_kv_heads) == (4, 2)
    assert parts.attention_norm.kind == "rmsnorm"
    assert parts.feed_forward.gate is not None
    assert parts.feed_forward.gate.module == "model.layers.0.mlp.gate_proj"
    assert parts.feed_forward.up.module == "model.layers.0.mlp.up_proj"


ROPES = {
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


@pytest.mark.parametrize("kind", ROPES)
def test_scaled_rotary_frequencies_are_the_models_own(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 500.0, **ROPES[kind]}
    model = llama("sdpa", rope_parameters=rope)

    recognised = architecture(model, (), padded())

    assert recognised.missing == ()
    parts = recognised.stacks[0].parts[0]
    assert parts is not None
    rotary = parts.attention.rotary
    assert rotary is not None
    frequencies = model.get_buffer("model.rotary_emb.inv_freq").tolist()
    # angles of 12 tokens in float32 are good to 1e-6
    assert rotary.frequencies == pytest.approx(frequencies, abs=1e-6)
    assert rotary.scale == pytest.approx(model.model.rotary_emb.attention_scaling, rel=1e-4)


@pytest.mark.parametrize("build", [gpt2, bert, llama])
def test_bfloat16_is_recognised_too(build: object) -> None:
    assert callable(build)
    model = build("sdpa").to(torch.bfloat16)

    assert architecture(model, (), padded()).missing == ()
