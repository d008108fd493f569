"""Running a model once more, where its user asks for it, and leaving it as it was."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back buffers and the random state of torch, numpy and Python; run compiled code eagerly.

    Warnings are not shown: the user sees those of the job's own forward pass. What else a model
    keeps (a counter, a cache, a file) does change.
    """
    generators = random.getstate(), np.random.get_state()
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    buffers = {id(b): (b, b._version, b.detach().clone()) for b in model.buffers()}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if hasattr(torch.compiler, "set_stance"):  # torch >= 2.6
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            random.setstate(generators[0])
            np.random.set_state(generators[1])
            with torch.no_grad():
                for buffer, version, value in buffers.values():
                    if buffer._version != version:
                        buffer.copy_(value)


def call_arguments(batch: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a batch is passed to forward: a tensor by position, a mapping by keywords."""
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), {str(key): value for key, value in batch.items()}
    raise TypeError(
        "batch must be a tensor, or a dict passed as keywords to the model's forward, "
        f"got {type(batch).__name__}"
    )


def stream_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """A block's stream: its first (batch, seq, features) argument."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
            return value
    return None


def result_of(output: Any) -> Tensor | None:
    """A block's new stream: its output, or the first tensor of it."""
    items = output if isinstance(output, (tuple, list)) else (output,)
    if isinstance(output, Mapping):
        items = tuple(output.values())
    return next((v for v in items if isinstance(v, Tensor)), None)
