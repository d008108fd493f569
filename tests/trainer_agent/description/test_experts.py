"""Mixtures of experts are read whatever way they are written, and predicted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import dslm
import trainer_agent
from benchmarks.streams import measured_stacks
from tests.trainer_agent.description.expert_models import EXPERTS, TOP, Listed, Shared, Stacked
from tests.trainer_agent.description.home_made import (
    WIDTH,
    Block,
    FeedForward,
    Model,
    WrittenAttention,
    batch,
)
from trainer_agent.deepscale_lm.report import DeepScaleError
from trainer_agent.description import ExpertParts, FeedForwardParts, architecture

VOCAB, SEQ, LAYERS = 256, 64, 6


def layer_of(experts: nn.Module) -> tuple[FeedForwardParts, ExpertParts]:
    recognised = architecture(Model(Block(WrittenAttention(), experts)), (), batch())
    assert recognised.missing == ()
    (parts,) = recognised.stacks[0].parts
    assert parts is not None and parts.feed_forward.experts is not None
    return parts.feed_forward, parts.feed_forward.experts


def test_experts_in_a_list_are_one_layer_with_the_moments_of_all() -> None:
    torch.manual_seed(0)
    layer, experts = layer_of(Listed())

    assert (experts.top_k, experts.gate, experts.normalised, experts.scale) == (
        (TOP, "softmax", True, 1.0)
    )
    assert experts.router.weight == "blocks.0.mlp.router.weight"
    assert (layer.activation, layer.up.d_out, layer.down.d_out) == ("silu", 2 * WIDTH, WIDTH)
    assert layer.gate is not None and "w1" in layer.gate.weight and "w3" in layer.up.weight
    assert len(layer.up.others) == EXPERTS - 1
    assert layer.down.bias == "blocks.0.mlp.experts.0.w2.bias"


def test_stacked_experts_stored_input_first_are_read_with_gates_that_are_not_normalised() -> None:
    torch.manual_seed(0)
    layer, experts = layer_of(Stacked())

    assert (experts.gate, experts.normalised) == ("softmax", False)
    assert layer.gate is None and layer.activation == "gelu"
    assert layer.up.stacked and layer.up.input_first
    assert (layer.up.d_in, layer.up.d_out) == (WIDTH, 3 * WIDTH)


def test_shared_layer_and_its_gate_are_read_beside_sigmoid_gates() -> None:
    torch.manual_seed(0)
    layer, experts = layer_of(Shared())

    assert (experts.gate, experts.normalised) == ("sigmoid", True)
    assert experts.scale == pytest.approx(2.5, rel=1e-3)
    assert layer.gate is not None and layer.gate.outputs == ((2 * WIDTH, 4 * WIDTH),)
    assert experts.shared is not None and experts.shared.activation == "relu"
    assert experts.shared_gate is not None and experts.shared_gate.d_out == 1


def test_deepscale_refuses_experts_by_name() -> None:
    torch.manual_seed(0)
    model = Model(Block(WrittenAttention(), Listed()), Block(WrittenAttention(), FeedForward()))

    with pytest.raises(DeepScaleError, match="experts"):
        trainer_agent.deepscale(model, batch())


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "intermediate_size": 256,
    "use_cache": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 4}
LATENT = SIZES | {
    "num_key_value_heads": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 64,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "first_k_dense_replace": 1,
}
SMALL = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}


def built(family: str, **options: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        config = getattr(transformers, f"{family}Config")(**options)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        assert isinstance(model, nn.Module)
        return model

    return build


FAMILIES = {
    "mixtral": built("Mixtral", **GROUPED, num_local_experts=8, num_experts_per_tok=2),
    "qwen3 moe": built("Qwen3Moe", **GROUPED, **SMALL, head_dim=16, num_experts=8),
    "qwen2 moe": built(
        "Qwen2Moe", **GROUPED, **SMALL, num_experts=8, shared_expert_intermediate_size=64
    ),
    "olmoe": built("Olmoe", **GROUPED, num_experts=8, num_experts_per_tok=2),
    "granite moe": built("GraniteMoe", **GROUPED, num_local_experts=8, num_experts_per_tok=2),
    "gpt-oss": built("GptOss", **GROUPED, head_dim=16, num_local_experts=8, num_experts_per_tok=2),
    "deepseek v2": built("DeepseekV2", **LATENT),
    "deepseek v3": built("DeepseekV3", **LATENT),
}


def ids_of(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    odds = 1 / torch.arange(1, VOCAB - 2).float()
    ids = torch.multinomial(odds, 4 * SEQ, replacement=True, generator=draw).view(4, SEQ) + 3
    return {"input_ids": ids, "labels": ids}


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_predicted_over_two_draws(name: str) -> None:
    forward, backward, apart = [], [], []
    for seed in (5, 6):
        torch.manual_seed(seed)
        model = FAMILIES[name]().train()
        spec = trainer_agent.describe(model, ids_of(seed))
        assert spec.missing == ()
        blocks = {s.name: s.blocks for s in architecture(model, (), ids_of(seed)).stacks}
        measured = measured_stacks(model, blocks, ids_of(seed))["decoder"]
        (stack,) = dslm.predict(spec).stacks.values()
        forward.append(stack.forward.variance / measured.forward - 1)
        backward.append(stack.backward.variance / measured.backward - 1)
        apart.append(stack.forward.correlation - measured.correlation)

    # the aim, 5 % in the median and 20 % at worst, holds for means over many draws
    assert np.median(np.abs(np.mean(forward, 0))) < 0.1
    assert np.median(np.abs(np.mean(backward, 0))) < 0.12
    assert max(np.abs(np.mean(curve, 0)).max() for curve in (forward, backward)) < 0.35
    assert np.abs(np.mean(apart, 0)).max() < 0.08


def test_latent_attention_and_sinks_are_what_the_config_says() -> None:
    latent = architecture(FAMILIES["deepseek v3"](), (), ids_of(0)).stacks[0].parts[0]
    sinks = architecture(FAMILIES["gpt-oss"](), (), ids_of(0)).stacks[0].parts[0]

    assert latent is not None and sinks is not None
    attention = latent.attention
    assert attention.query.latent is not None and attention.query.latent.down.d_out == 48
    assert attention.key.beside is not None and attention.key.latent is not None
    assert (attention.n_heads, attention.d_head) == (8, 24)
    assert attention.rotary is not None and attention.rotary.fraction == pytest.approx(8 / 24)
    assert (attention.value.d_out, attention.output.d_in) == (128, 128)
    assert sinks.attention.sink == "model.layers.0.self_attn.sinks"
    assert sinks.feed_forward.up_offset == 1.0
