"""Encoder-decoder models: what the decoder reads of the encoder is found, and both predicted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dslm
import trainer_agent
from benchmarks.streams import measured_stacks
from trainer_agent.description import Architecture, architecture

VOCAB = 64


class Translator(nn.Module):
    """``nn.Transformer`` with embeddings and a loss; its encoder ends in a norm."""

    def __init__(self, width: int = 64, layers: int = 2, *, norm_first: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, width)
        sizes = {"dim_feedforward": 2 * width, "batch_first": True, "norm_first": norm_first}
        layer = nn.TransformerEncoderLayer(width, 4, **sizes)
        encoder = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.layers = nn.Transformer(
            width, 4, num_decoder_layers=layers, custom_encoder=encoder, **sizes
        )
        for name, weight in self.layers.named_parameters():  # layers start out as copies
            if weight.ndim > 1 and name.startswith("encoder"):
                nn.init.xavier_uniform_(weight)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Logits of the labels, and their loss."""
        mask = nn.Transformer.generate_square_subsequent_mask(labels.shape[1])
        x = self.layers(self.tokens(input_ids), self.tokens(labels), tgt_mask=mask)
        logits = self.head(x)
        return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}


class Unread(Translator):
    """The decoder reads the encoder's output through one more map."""

    def __init__(self) -> None:
        super().__init__()
        self.bridge = nn.Linear(64, 64)
        self.layers.encoder.norm = nn.Sequential(nn.LayerNorm(64), self.bridge)


def bart(width: int = 64, layers: int = 2) -> nn.Module:
    from transformers import BartConfig, BartForConditionalGeneration

    sides = ("encoder", "decoder")
    sizes = {f"{side}_{what}": n for side in sides for what, n in _side(width, layers).items()}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(vocab_size=VOCAB, d_model=width, max_position_embeddings=32, **sizes, **ids)
    config.forced_eos_token_id = None
    return BartForConditionalGeneration(config)


def _side(width: int, layers: int) -> dict[str, int]:
    return {"layers": layers, "attention_heads": 4, "ffn_dim": 4 * width}


def pairs(size: int = 4) -> dict[str, Tensor]:
    """Sources of 24 ids and targets of 20."""
    draw = torch.Generator().manual_seed(0)
    odds = 1.0 / torch.arange(1, VOCAB - 2)
    ids = 3 + torch.multinomial(odds, size * 44, replacement=True, generator=draw)
    ids = ids.reshape(size, 44)
    return {"input_ids": ids[:, :24].contiguous(), "labels": ids[:, 24:].contiguous()}


def whole(model: nn.Module) -> Architecture:
    """The architecture of a model understood whole, encoder and decoder."""
    recognised = architecture(model.train(), (), pairs())
    assert recognised.missing == ()
    assert [stack.name for stack in recognised.stacks] == ["encoder", "decoder"]
    return recognised


@pytest.mark.parametrize(("norm_first", "placement"), [(True, "pre"), (False, "post")])
def test_cross_attention_of_torchs_transformer_is_found(norm_first: bool, placement: str) -> None:
    recognised = whole(Translator(norm_first=norm_first))

    encoder, decoder = recognised.stacks
    assert (encoder.reads, decoder.reads) == (None, "encoder")
    assert encoder.final_norm is not None
    assert encoder.final_norm.weight == "layers.encoder.norm.weight"
    for parts in decoder.parts:
        assert parts is not None
        assert parts.cross is not None
        assert (parts.placement, parts.causal, parts.cross.attention.causal) == (
            placement,
            True,
            False,
        )
    assert decoder.parts[1] is not None
    assert decoder.parts[1].cross is not None
    assert decoder.parts[1].cross.norm.weight == "layers.decoder.layers.1.norm2.weight"


def test_bart_is_recognised() -> None:
    encoder, decoder = whole(bart()).stacks

    assert (decoder.reads, encoder.final_norm) == ("encoder", None)
    parts = decoder.parts[0]
    assert parts is not None
    assert parts.cross is not None
    assert parts.cross.attention.key.module == "model.decoder.layers.0.encoder_attn.k_proj"
    assert parts.cross.attention.score_scale == pytest.approx(0.25, rel=1e-5)
    assert parts.cross.residual.p_drop == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["bart", "torch"])
def test_both_stacks_are_predicted_within_one_draws_scatter(name: str) -> None:
    torch.manual_seed(0)
    model = bart(128, 4) if name == "bart" else Translator(128, 4)
    batch, stacks = pairs(8), {s.name: s.blocks for s in whole(model).stacks}
    predicted = dslm.predict(trainer_agent.describe(model, batch)).stacks

    measurement = measured_stacks(model, stacks, batch)

    for stack, curves in predicted.items():
        forward = np.abs(curves.forward.variance / measurement[stack].forward - 1)
        backward = np.abs(curves.backward.variance / measurement[stack].backward - 1)
        # one draw at d = 128: a layer scatters by sqrt(2/d) = 12 %
        assert np.median(forward) < 0.15
        assert np.median(backward) < 0.2
        assert max(forward.max(), backward.max()) < 0.5


def test_a_memory_that_is_not_a_stacks_output_is_missing() -> None:
    recognised = architecture(Unread().train(), (), pairs())

    assert {m.what for m in recognised.missing} == {"cross-attention"}
    assert all(part is None for part in recognised.stacks[1].parts)
