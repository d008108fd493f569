"""A batch to look at a model with, and whether all of the model is understood on it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dslm import Missing
from trainer_agent.deepscale_lm.report import DeepScaleError
from trainer_agent.description import Architecture, architecture
from trainer_agent.description.trace.replay import call_arguments

MAX_TOKENS = 64
SEQUENCES = 4
Batch = Tensor | Mapping[str, Any]


def probe_batch(model: nn.Module) -> Batch:
    """Random ids, distributed as words are (id k as often as 1/(k+1)), or random images."""
    if getattr(model, "main_input_name", None) == "pixel_values":
        return {"pixel_values": _images(model)}
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    if not tables:
        raise DeepScaleError("no nn.Embedding found: pass batch=, what the model's forward takes")
    device = tables[0].weight.device
    ids = _ids(_vocabulary(model, tables), _length(model, tables)).to(device)
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        return {"input_ids": ids, "decoder_input_ids": ids.flip(0)}
    return ids


def _vocabulary(model: nn.Module, tables: list[nn.Embedding]) -> int:
    """Size of the table that ids look up: the config's, or the first table."""
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    return size if isinstance(size, int) else tables[0].num_embeddings


def _length(model: nn.Module, tables: list[nn.Embedding]) -> int:
    """As many tokens as the smallest table, or the config, may hold positions for.

    Two fewer: some families count positions from 2.
    """
    limits = [t.num_embeddings for t in tables if t.num_embeddings >= 8]
    stated = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    limits += [stated] if isinstance(stated, int) else []
    return max(min([MAX_TOKENS, *(size - 2 for size in limits)]), 2)


def _ids(vocabulary: int, length: int) -> Tensor:
    odds = 1.0 / torch.arange(1, vocabulary + 1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.multinomial(odds, SEQUENCES * length, replacement=True, generator=generator)
    return ids.reshape(SEQUENCES, length)


def _images(model: nn.Module) -> Tensor:
    """White noise of the size the config gives."""
    config = getattr(model, "config", None)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, (tuple, list)):
        raise DeepScaleError("config.image_size is missing: pass batch=, what the forward takes")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SEQUENCES, channels, *sides, generator=generator)
    return images.to(next(model.parameters()).device)


def understood(model: nn.Module, batch: Batch) -> Architecture:
    """The model's architecture; raises DeepScaleError where any of it is not understood."""
    args, kwargs = call_arguments(batch)
    try:
        layout = architecture(model, args, kwargs)
    except (TypeError, RuntimeError, ValueError, IndexError, KeyError) as error:
        name = type(model).__name__
        raise DeepScaleError(
            f"{name} does not run on the batch ({error}): pass batch=, what its forward takes"
        ) from error
    first = next((m for m in layout.missing if _is_of_blocks(m, layout)), None)
    if first is not None:
        raise DeepScaleError(f"{first.where}: {first.what}: {first.why}")
    _refuse_experts(layout)
    loose = next((stack for stack in layout.stacks if stack.edges), None)
    if loose is not None:
        raise DeepScaleError(
            f"{loose.blocks[0]}: the model's forward adds up its parts by itself, so no module's "
            "output can be scaled for the whole block: write the block as a module with a forward"
        )
    return layout


def _refuse_experts(layout: Architecture) -> None:
    for stack in layout.stacks:
        for path, parts in zip(stack.blocks, stack.parts, strict=True):
            if parts is not None and parts.feed_forward.experts is not None:
                raise DeepScaleError(
                    f"{path}: it routes tokens to experts, for which DeepScaleLM gives no scales"
                )


def _is_of_blocks(missing: Missing, layout: Architecture) -> bool:
    """Whether what is missing is in the blocks; a head may be any, its scale is measured."""
    containers = {stack.blocks[0].rpartition(".")[0] for stack in layout.stacks}
    return missing.what == "blocks" or any(missing.where.startswith(c) for c in containers)
