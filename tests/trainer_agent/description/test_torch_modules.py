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


def test_a_bias_in_the_mask_is_missing() -> None:
    bias = -0.1 * torch.arange(SEQ).float().expand(SEQ, SEQ)

    assert described(encoder(), bias).missing[0].what == "position bias"


def test_sequence_first_streams_are_missing() -> None:
    assert described(encoder(batch_first=False)).missing[0].what == "sequence first"
