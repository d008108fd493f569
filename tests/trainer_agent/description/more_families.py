"""Small models of the `transformers` families that differ in structure, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

VOCAB, SEQ, WINDOW = 64, 32, 8
Batch = dict[str, Tensor]


def _sizes(layers: int, width: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": 4,
        "vocab_size": VOCAB,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _gated(layers: int, width: int) -> dict[str, int]:
    return _sizes(layers, width) | {"intermediate_size": 3 * width, "num_key_value_heads": 2}


def mistral(layers: int, width: int) -> nn.Module:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**_gated(layers, width), sliding_window=WINDOW))


def qwen2(layers: int, width: int) -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_gated(layers, width)))


def qwen3(layers: int, width: int) -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_gated(layers, width), head_dim=width // 4))


def olmo2(layers: int, width: int) -> nn.Module:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    return Olmo2ForCausalLM(Olmo2Config(**_gated(layers, width), pad_token_id=None))


def gemma2(layers: int, width: int) -> nn.Module:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = _gated(layers, width) | {"head_dim": width // 4, "sliding_window": WINDOW}
    return Gemma2ForCausalLM(Gemma2Config(**sizes))


def opt(layers: int, width: int) -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = _sizes(layers, width) | {"ffn_dim": 4 * width, "word_embed_proj_dim": width}
    return OPTForCausalLM(OPTConfig(**sizes, max_position_embeddings=SEQ, pad_token_id=1))


def gpt_neox(layers: int, width: int) -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**_sizes(layers, width), intermediate_size=4 * width))


def phi(layers: int, width: int) -> nn.Module:
    from transformers import PhiConfig, PhiForCausalLM

    return PhiForCausalLM(PhiConfig(**_sizes(layers, width), intermediate_size=4 * width))


def gemma(layers: int, width: int) -> nn.Module:
    from transformers import GemmaConfig, GemmaForCausalLM

    return GemmaForCausalLM(GemmaConfig(**_gated(layers, width), head_dim=width // 4))


def roberta(layers: int, width: int) -> nn.Module:
    from transformers import RobertaConfig, RobertaForMaskedLM

    sizes = _sizes(layers, width) | {"intermediate_size": 4 * width, "pad_token_id": 1}
    return RobertaForMaskedLM(RobertaConfig(**sizes, max_position_embeddings=SEQ + 2))


def vit(layers: int, width: int) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {
        k: v for k, v in _sizes(layers, width).items() if not k.endswith(("_id", "vocab_size"))
    }
    shape = {"image_size": 32, "patch_size": 8, "num_labels": 10}
    return ViTForImageClassification(ViTConfig(**sizes, **shape, intermediate_size=4 * width))


def llama_yarn(layers: int, width: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {
        "rope_type": "yarn",
        "rope_theta": 500.0,
        "factor": 8.0,
        "original_max_position_embeddings": SEQ // 4,
    }
    config = LlamaConfig(**_gated(layers, width), rope_parameters=rope)
    return LlamaForCausalLM(config)


def bloom(layers: int, width: int) -> nn.Module:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(
        BloomConfig(vocab_size=VOCAB, n_layer=layers, hidden_size=width, n_head=4, use_cache=False)
    )


def mpt(layers: int, width: int) -> nn.Module:
    from transformers import MptConfig, MptForCausalLM

    sizes = {"n_layers": layers, "d_model": width, "n_heads": 4, "vocab_size": VOCAB}
    return MptForCausalLM(MptConfig(**sizes, max_seq_len=2 * SEQ, use_cache=False))


BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "olmo2": olmo2,
    "gemma2": gemma2,
    "opt": opt,
    "gpt_neox": gpt_neox,
    "phi": phi,
    "gemma": gemma,
    "roberta": roberta,
    "vit": vit,
    "llama_yarn": llama_yarn,
    "bloom": bloom,
    "mpt": mpt,
}


def batch_for(name: str, size: int = 4) -> Batch:
    """Ids distributed as words are, or images for ViT, with labels for the loss."""
    draw = torch.Generator().manual_seed(0)
    if name == "vit":
        labels = torch.randint(10, (size,), generator=draw)
        return {"pixel_values": torch.randn(size, 3, 32, 32, generator=draw), "labels": labels}
    odds = 1.0 / torch.arange(1, VOCAB - 1)
    ids = 2 + torch.multinomial(odds, size * SEQ, replacement=True, generator=draw)
    return {"input_ids": ids.reshape(size, SEQ), "labels": ids.reshape(size, SEQ)}
