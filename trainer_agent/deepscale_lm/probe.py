"""A batch to look at a model with, and what lies around its blocks: embeddings and head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dslm.spec import Kernel
from trainer_agent.description import Architecture, StackParts, architecture, kernel
from trainer_agent.description.replay import call_arguments, stream_of, undisturbed

from .report import DeepScaleError

MAX_TOKENS = 64
SEQUENCES = 4


@dataclass(slots=True)
class Surroundings:
    """Embeddings summed before the blocks, the head after them, and the stream into block 0.

    Attributes:
        embeddings: module paths of the tables looked up before block 0.
        p_drop: dropout on the stream before block 0.
        head: path of the map to the vocabulary, or None.
        variance: of the stream into block 0.
        kernel: of the same.
    """

    embeddings: list[str] = field(default_factory=list)
    p_drop: float = 0.0
    head: str | None = None
    variance: float = float("nan")
    kernel: Kernel | None = None

    @property
    def input_kernel(self) -> Kernel:
        """The kernel, which a model whose blocks are called has."""
        assert self.kernel is not None
        return self.kernel

    @property
    def table_std(self) -> float:
        """sqrt((1 - p) / T), for T tables and dropout p after their sum; arXiv 2403.09635, §4."""
        return math.sqrt((1 - self.p_drop) / len(self.embeddings))


def probe_batch(model: nn.Module) -> Tensor:
    """Random ids, distributed as words are: id k as often as 1/(k+1)."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    if not tables:
        raise DeepScaleError("no nn.Embedding found: pass batch=, what the model's forward takes")
    seq = min([MAX_TOKENS, *(t.num_embeddings for t in tables if t.num_embeddings >= 8)])
    odds = 1.0 / torch.arange(1, tables[0].num_embeddings + 1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.multinomial(odds, SEQUENCES * seq, replacement=True, generator=generator)
    return ids.reshape(SEQUENCES, seq).to(tables[0].weight.device)


def understood(model: nn.Module, batch: Tensor | Mapping[str, Any]) -> Architecture:
    """The model's architecture; raises DeepScaleError where any of it is not understood."""
    args, kwargs = call_arguments(batch)
    try:
        found = architecture(model, args, kwargs)
    except (TypeError, RuntimeError, ValueError, IndexError, KeyError) as error:
        name = type(model).__name__
        raise DeepScaleError(
            f"{name} does not run on the batch ({error}): pass batch=, what its forward takes"
        ) from error
    if found.missing:
        first = found.missing[0]
        raise DeepScaleError(f"{first.where}: {first.what}: {first.why}")
    if len(found.stacks) != 1:
        raise DeepScaleError(f"{len(found.stacks)} stacks of blocks: one is supported")
    _check_placement(found.stacks[0])
    return found


def _check_placement(stack: StackParts) -> None:
    """The residual scales and standard deviations known are those of Pre-LN and Post-LN."""
    for path, parts in zip(stack.blocks, stack.parts, strict=True):
        if parts is not None and parts.placement not in {"pre", "post"}:
            raise DeepScaleError(
                f"{path}: {parts.placement} norms or branches: DeepScaleLM is for x + f(norm(x)) "
                "and norm(x + f(x)), attention first"
            )


def surroundings(
    model: nn.Module, stack: StackParts, batch: Tensor | Mapping[str, Any]
) -> Surroundings:
    """Run the model once and note what is called before and after the blocks."""
    args, kwargs = call_arguments(batch)
    seen = Surroundings()
    blocks = [model.get_submodule(path) for path in stack.blocks]

    def into_blocks(
        _: nn.Module, block_args: tuple[Any, ...], block_kwargs: dict[str, Any]
    ) -> None:
        stream = stream_of(block_args, block_kwargs)
        assert stream is not None  # the architecture pass saw it
        seen.variance = float(stream.float().var(correction=0))
        seen.kernel = kernel(stream)

    def called(module: nn.Module, _args: object, _output: object) -> None:
        path = names[module]
        if isinstance(module, nn.Embedding) and seen.kernel is None:
            seen.embeddings += [path] if path not in seen.embeddings else []
        elif isinstance(module, nn.Dropout) and seen.kernel is None:
            seen.p_drop = module.p
        elif isinstance(module, nn.Linear) and seen.kernel is not None:
            seen.head = path

    names = {module: path for path, module in model.named_modules()}
    inside = {m for block in blocks for m in block.modules()}
    kinds = (nn.Embedding, nn.Dropout, nn.Linear)
    outside = [m for m in names if m not in inside and isinstance(m, kinds)]
    handles = [m.register_forward_hook(called) for m in outside]
    handles.append(blocks[0].register_forward_pre_hook(into_blocks, with_kwargs=True))
    try:
        with undisturbed(model), torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return seen
