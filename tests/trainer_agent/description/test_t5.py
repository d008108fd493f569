"""T5: a learned bias by distance, shared by a stack's layers; scores without a factor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import dslm
import trainer_agent
from benchmarks.streams import measured_stacks
from trainer_agent.description import architecture, measure

VOCAB, SEQ = 64, 24
TABLES = {
    stack: f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    for stack in ("encoder", "decoder")
}


def t5(layers: int = 2, width: int = 64, **options: object) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": width, "d_kv": width // 4, "d_ff": 4 * width, "num_heads": 4}
    config = T5Config(
        **sizes, num_layers=layers, vocab_size=VOCAB, decoder_start_token_id=0, **options
    )
    return T5ForConditionalGeneration(config)


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    odds = 1.0 / torch.arange(1, VOCAB - 1)
    ids = 2 + torch.multinomial(odds, 4 * SEQ, replacement=True, generator=draw).reshape(4, SEQ)
    return {"input_ids": ids, "labels": ids}


@pytest.mark.parametrize("gated", [False, True])
def test_both_stacks_are_recognised(gated: bool) -> None:
    kind = "gated-gelu" if gated else "relu"
    recognised = architecture(t5(feed_forward_proj=kind), (), batch())

    assert recognised.missing == ()
    assert recognised.stack("decoder").reads == "encoder"
    for stack in recognised.stacks:
        for parts in stack.parts:
            assert parts is not None and parts.attention.position_bias is not None
            assert parts.attention.score_scale == pytest.approx(1.0, rel=1e-4)
            assert parts.attention.position_bias.table == TABLES[stack.name]
            assert parts.feed_forward.activation == ("gelu_tanh" if gated else "relu")
            assert (parts.feed_forward.gate is not None) == gated
            assert parts.attention_norm.kind == "rmsnorm"
    assert all(p is not None and p.cross is not None for p in recognised.stack("decoder").parts)


def test_a_bias_that_was_trained_is_read_again() -> None:
    model = t5()
    recognised = architecture(model, (), batch())
    table = model.get_parameter(TABLES["decoder"])
    with torch.no_grad():
        table.copy_(torch.arange(table.numel()).reshape(table.shape))

    blocks = measure(recognised, model)["decoder"]

    for block in blocks:
        assert block is not None and block.attention.position_bias is not None
        bias = block.attention.position_bias
        # causally, the first 16 buckets are one token each; entry (bucket, head) is 4·bucket + head
        assert bias.distances[0] == 0
        assert sorted(row[0] for row in bias.values) == [0.0, 1.0, 2.0, 3.0]
        at_nine = dslm.position_bias.bias_at(bias, np.array([9.0]))[:, 0]
        assert sorted(at_nine.tolist()) == pytest.approx([36.0, 37.0, 38.0, 39.0])


def test_t5_is_predicted_within_one_draws_scatter() -> None:
    torch.manual_seed(0)
    model = t5(4, 128).train()
    with torch.no_grad():  # as after training: biases of several units, so that they matter
        for name in TABLES.values():
            model.get_parameter(name).mul_(20)
    spec = trainer_agent.describe(model, batch())
    stacks = architecture(model, (), batch()).stacks
    measurement = measured_stacks(model, {s.name: s.blocks for s in stacks}, batch())

    for name, stack in dslm.predict(spec).stacks.items():
        # as for the other families: one draw at d = 128
        forward = np.abs(stack.forward.variance / measurement[name].forward - 1)
        backward = np.abs(stack.backward.variance / measurement[name].backward - 1)
        assert np.median(forward) < 0.15
        assert np.median(backward) < 0.2
        assert np.abs(stack.forward.correlation - measurement[name].correlation).max() < 0.1
