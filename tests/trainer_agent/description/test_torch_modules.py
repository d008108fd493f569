"""PyTorch's own encoder layers, and blocks around ``nn.MultiheadAttention``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainer_agent.description import Architecture, architecture, measure

WIDTH, SEQ = 32, 8


def encoder(*, layers: int = 2, norm_first: bool = False, batch_first: bool = True) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        WIDTH, 4, 64, 0.1, "gelu", norm_first=norm_first, batch_first=batch_first
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def described(model: nn.Module, mask: Tensor | None = None) -> Architecture:
    return architecture(model, (torch.randn(2, SEQ, WIDTH),), {"mask": mask})


@pytest.mark.parametrize(("norm_first", "placement"), [(True, "pre"), (False, "post")])
def test_encoder_layers_are_recognised(norm_first: bool, placement: str) -> None:
    model = encoder(norm_first=norm_first)

    found = described(model)

    assert found.missing == ()
    parts = found.stacks[0].parts[0]
    assert parts is not None
    assert (found.stacks[0].name, parts.placement) == ("encoder", placement)
    assert (parts.attention.n_heads, parts.attention.p_drop) == (4, 0.1)
    assert parts.attention_residual.p_drop == pytest.approx(0.1)
    assert parts.feed_forward.activation == "gelu"
    (block, _) = measure(found, model)["encoder"]
    assert block is not None
    keys = model.get_parameter("layers.0.self_attn.in_proj_weight")[WIDTH : 2 * WIDTH]
    assert block.attention.key.weight_var == pytest.approx(float(keys.detach().square().mean()))


@pytest.mark.parametrize("additive", [True, False])
def test_a_causal_mask_makes_an_encoder_layer_a_decoder(additive: bool) -> None:
    kept_out = torch.ones(SEQ, SEQ).triu(1).bool()
    mask = torch.zeros(SEQ, SEQ).masked_fill(kept_out, float("-inf")) if additive else kept_out

    assert described(encoder(), mask).stacks[0].name == "decoder"


@pytest.mark.parametrize("heads", [1, 4])
def test_a_bias_in_the_mask_is_read(heads: int) -> None:
    slopes = 0.1 * torch.arange(1, heads + 1)[:, None, None]
    back = torch.arange(SEQ)[:, None] - torch.arange(SEQ)[None]
    bias = -slopes * back.abs()
    bias = bias.repeat(2, 1, 1) if heads > 1 else bias[0]

    found = described(encoder(), bias)

    assert found.missing == ()
    parts = found.stacks[0].parts[0]
    assert parts is not None and parts.attention.position_bias is not None
    seen = parts.attention.position_bias.seen
    assert (seen.distances, sum(seen.heads)) == ((1 - SEQ, 0, SEQ - 1), 4)
    assert [row[0] for row in seen.values] == pytest.approx((-7 * slopes.flatten()).tolist())


def test_sequence_first_streams_are_missing() -> None:
    assert described(encoder(batch_first=False)).missing[0].what == "sequence first"
