"""Small models of `transformers` whose norms, activations or rotations stand apart, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.trainer_agent.description.more_families import VOCAB

HEADS = 4
Sizes = dict[str, Any]


class WithLoss(nn.Module):
    """A model without a head, and the cross-entropy of a random one."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, VOCAB, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.body(input_ids=input_ids).last_hidden_state)
        return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}


def _sizes(layers: int, width: int) -> Sizes:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": HEADS,
        "vocab_size": VOCAB,
        "pad_token_id": None,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def clip(layers: int, width: int) -> nn.Module:
    """Activation u·sigmoid(1.702 u)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return WithLoss(CLIPTextModel(CLIPTextConfig(**_sizes(layers, width))), width)


def modernbert(layers: int, width: int) -> nn.Module:
    """No norm before the first attention; global and local blocks."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    special = dict.fromkeys(("cls_token_id", "sep_token_id"), 0)
    sizes = _sizes(layers, width) | special | {"pad_token_id": 0, "local_attention": 16}
    sizes["initializer_range"] = 0.1  # as built its branches hardly change so narrow a stream
    return ModernBertForMaskedLM(ModernBertConfig(**sizes))


def cohere(layers: int, width: int) -> nn.Module:
    """Norms of queries and keys over each head's features, with gains of each head's own."""
    from transformers import CohereConfig, CohereForCausalLM

    sizes = _sizes(layers, width) | {"num_key_value_heads": 2, "use_qk_norm": True}
    return CohereForCausalLM(CohereConfig(**sizes))


def stablelm(layers: int, width: int) -> nn.Module:
    """The same, each head's norm a module of its own."""
    from transformers import StableLmConfig, StableLmForCausalLM

    sizes = _sizes(layers, width) | {"num_key_value_heads": 2, "qk_layernorm": True}
    return StableLmForCausalLM(StableLmConfig(**sizes))


def esm(layers: int, width: int) -> nn.Module:
    """Queries are scaled before they are rotated."""
    from transformers import EsmConfig, EsmForMaskedLM

    sizes = _sizes(layers, width) | {"position_embedding_type": "rotary", "mask_token_id": 1}
    sizes |= {"pad_token_id": 0, "token_dropout": False}
    return EsmForMaskedLM(EsmConfig(**sizes))


def nemotron(layers: int, width: int) -> nn.Module:
    """Activation max(u, 0)², norms that multiply by 1 + weight."""
    from transformers import NemotronConfig, NemotronForCausalLM

    sizes = _sizes(layers, width) | {"num_key_value_heads": 2, "head_dim": width // HEADS}
    return NemotronForCausalLM(NemotronConfig(**sizes))


BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "clip": clip,
    "modernbert": modernbert,
    "cohere": cohere,
    "stablelm": stablelm,
    "esm": esm,
    "nemotron": nemotron,
}


def with_random_gains(model: nn.Module) -> nn.Module:
    """The model with gains of queries' and keys' norms that differ between heads."""
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("q_norm", "k_norm", "q_layernorm", "k_layernorm")):
            parameter.data = 0.5 + torch.rand(parameter.shape, generator=draw)
    return model
