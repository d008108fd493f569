"""The models of the corpus, and the batches that they learn from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.innovations.jobs import CLASSES, Job
from benchmarks.innovations.jobs import IMAGE as IMAGE_SIZE
from benchmarks.theory_models import (
    Batch,
    PlainGPT,
    Shape,
    bert,
    from_config,
    gated_sizes,
    gpt2,
    llama,
    plain_sizes,
)

WIDTH, HEADS = 64, 4
KINDS = {"Bert": "masked", "ViT": "images"}


def build(family: str, layers: int) -> nn.Module:
    """A model with fresh weights, from torch's seed."""
    shape = Shape(layers, WIDTH, HEADS)
    if family in {"pre", "post", "deepscale"}:
        return PlainGPT(shape, family)
    return _BUILDERS[family](shape)


def _gemma3(shape: Shape) -> nn.Module:
    import transformers

    sizes = gated_sizes(shape) | {"head_dim": WIDTH // HEADS}
    config = transformers.Gemma3TextConfig(vocab_size=256, use_cache=False, **sizes)
    model: nn.Module = transformers.Gemma3ForCausalLM(config)
    return model


def _t5(shape: Shape) -> nn.Module:
    sizes = {"d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": 4 * WIDTH, "dropout_rate": 0.0}
    depth = {"num_layers": shape.layers, "num_heads": HEADS, "decoder_start_token_id": 0}
    return from_config("T5", "ForConditionalGeneration", **sizes, **depth)


def _vit(shape: Shape) -> nn.Module:
    sizes = {"image_size": IMAGE_SIZE, "patch_size": 8, "num_labels": CLASSES}
    return from_config("ViT", "ForImageClassification", **plain_sizes(shape), **sizes)


def _causal(family: str, sizes: Callable[[Shape], dict[str, Any]]) -> Callable[[Shape], nn.Module]:
    return lambda shape: from_config(family, "ForCausalLM", **sizes(shape))


_BUILDERS: dict[str, Callable[[Shape], nn.Module]] = {
    "GPT2": partial(gpt2, p_drop=0.0),
    "Bert": partial(bert, p_drop=0.0),
    "Llama": llama,
    "Gemma3": _gemma3,
    "T5": _t5,
    "ViT": _vit,
    "Qwen3": _causal("Qwen3", gated_sizes),
    "OPT": _causal("OPT", plain_sizes),
    "GPTNeoX": _causal("GPTNeoX", plain_sizes),
}


def batch_of(family: str, step: int, seed: int, *, prose: bool = False) -> Batch:
    """The batch of a step: the same for the same family, step and seed."""
    job = Job(
        family,
        nn.Module,
        KINDS.get(family, "text"),  # type: ignore[arg-type]
        other_text_from=1 if prose else 0,
    )
    return job.batch(step + 1, seed)


def inputs_of(batch: Batch) -> str:
    """The name of what the model reads."""
    return "pixel_values" if "pixel_values" in batch else "input_ids"


@torch.no_grad()
def held_out_loss(model: nn.Module, family: str, *, prose: bool = False) -> float:
    """Mean loss on batches that no run trains on."""
    was_training = model.training
    model.eval()
    losses = [
        model(**batch_of(family, 10_000 + number, 7, prose=prose))["loss"] for number in range(6)
    ]
    model.train(was_training)
    mean: Tensor = torch.stack(losses).mean()
    return float(mean)
