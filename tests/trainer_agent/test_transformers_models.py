"""`transformers` models are watched as they come: every site, padding left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from dslm import spec_from_json
from tests.trainer_agent.recording import recorded

LAYERS, WIDTH, HEADS, VOCAB = 3, 32, 4, 60


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(n_layer=LAYERS, n_embd=WIDTH, n_head=HEADS, vocab_size=VOCAB, n_positions=16)
    )


def bert() -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            num_hidden_layers=LAYERS,
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            intermediate_size=64,
            vocab_size=VOCAB,
            max_position_embeddings=16,
        )
    )


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=LAYERS,
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            num_key_value_heads=2,
            intermediate_size=64,
            vocab_size=VOCAB,
        )
    )


@pytest.mark.parametrize(
    ("make", "stack"), [(gpt2, "decoder"), (bert, "encoder"), (llama, "decoder")]
)
def test_every_site_of_a_transformers_model_has_a_value(make, stack: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make().train()
    ids = torch.randint(VOCAB, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    agent, transport = recorded(model, tmp_path)

    model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    agent.step(loss=1.0)
    agent.close()

    keys = [key for key in transport.declarations[0].layout.slices if key.startswith(stack)]
    assert len(keys) == 15
    unseen = [key for key in keys if not np.isfinite(transport.series(key)).all()]
    assert unseen == []
    spec = spec_from_json(transport.revisions[0].spec)
    assert spec.missing == () and None not in spec.stacks[stack].blocks
    assert transport.health.failures == 0
    assert transport.health.silent == ()
