"""One model of each `transformers` family, by structure: 12 layers, its own initialisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks.theory_models import (
    Case,
    Shape,
    bert,
    from_config,
    gated_sizes,
    gpt2,
    llama,
    plain_sizes,
)

SHAPE = Shape(layers=12, width=256, heads=8)
WINDOW = 32


def mistral() -> nn.Module:
    """Pre-LN, a sliding window."""
    return from_config("Mistral", "ForCausalLM", **gated_sizes(SHAPE), sliding_window=WINDOW)


def qwen3() -> nn.Module:
    """Pre-LN, norms on queries and keys."""
    sizes = gated_sizes(SHAPE) | {"head_dim": SHAPE.width // SHAPE.heads}
    return from_config("Qwen3", "ForCausalLM", **sizes)


def opt() -> nn.Module:
    """Pre-LN, ReLU."""
    sizes = plain_sizes(SHAPE) | {"ffn_dim": 4 * SHAPE.width, "word_embed_proj_dim": SHAPE.width}
    return from_config("OPT", "ForCausalLM", **sizes, pad_token_id=1)


def gemma2() -> nn.Module:
    """Norms before and on each branch, soft caps, windows in every other block."""
    sizes = gated_sizes(SHAPE) | {"head_dim": SHAPE.width // SHAPE.heads}
    return from_config("Gemma2", "ForCausalLM", **sizes, sliding_window=WINDOW)


def vit() -> nn.Module:
    """Pre-LN encoder of image patches and a class token."""
    shape = {"image_size": 64, "patch_size": 8, "num_labels": 10}
    return from_config("ViT", "ForImageClassification", **plain_sizes(SHAPE), **shape)


def bart() -> nn.Module:
    """Post-LN encoder and decoder, the decoder reading the encoder."""
    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", SHAPE.layers),
            ("attention_heads", SHAPE.heads),
            ("ffn_dim", 4 * SHAPE.width),
        )
    }
    ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    return from_config("Bart", "ForConditionalGeneration", d_model=SHAPE.width, **sizes, **ids)


def t5() -> nn.Module:
    """Pre-LN encoder and decoder, a learned bias by distance, scores without a factor."""
    sizes = {"d_model": SHAPE.width, "d_kv": SHAPE.width // SHAPE.heads, "d_ff": 4 * SHAPE.width}
    depth = {"num_layers": SHAPE.layers, "num_heads": SHAPE.heads, "decoder_start_token_id": 0}
    return from_config("T5", "ForConditionalGeneration", **sizes, **depth)


def bloom() -> nn.Module:
    """Pre-LN, ALiBi."""
    sizes = {"n_layer": SHAPE.layers, "hidden_size": SHAPE.width, "n_head": SHAPE.heads}
    return from_config("Bloom", "ForCausalLM", **sizes)


def _gated(family: str) -> Callable[[], nn.Module]:
    return lambda: from_config(family, "ForCausalLM", **gated_sizes(SHAPE))


def _plain(family: str, head: str = "ForCausalLM") -> Callable[[], nn.Module]:
    return lambda: from_config(family, head, **plain_sizes(SHAPE))


FEW = 4  # sequences: weights scatter more than batches
COLLAPSING = 24  # draws: a model without positions, whose tokens share most of a vector

FAMILIES = (
    Case("GPT-2", lambda: gpt2(SHAPE), size=FEW),
    Case("BERT", lambda: bert(SHAPE), batch="masked", size=FEW),
    Case("RoBERTa", _plain("Roberta", "ForMaskedLM"), batch="masked", size=FEW, draws=6),
    Case("Llama", lambda: llama(SHAPE), size=FEW, draws=COLLAPSING),
    Case("Mistral (window)", mistral, size=FEW, draws=COLLAPSING),
    Case("Qwen2", _gated("Qwen2"), size=FEW, draws=COLLAPSING),
    Case("Qwen3 (QK-norm)", qwen3, size=FEW, draws=COLLAPSING),
    Case("Gemma 2 (sandwich)", gemma2, size=FEW, draws=COLLAPSING),
    Case("OPT", opt, size=FEW, draws=12),
    Case("GPT-NeoX (parallel)", _plain("GPTNeoX"), size=FEW, draws=12),
    Case("Phi (parallel)", _plain("Phi"), size=FEW, draws=12),
    Case("OLMo 2 (branch norm)", _gated("Olmo2"), size=FEW, draws=COLLAPSING),
    Case("BART", bart, size=FEW),
    Case("T5 (learned bias)", t5, size=FEW, draws=12),
    Case("BLOOM (ALiBi)", bloom, size=FEW, draws=12),
    Case("ViT", vit, batch="images", size=FEW, draws=12),
)
