"""What enters the stacks in a pass that the user has asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer_agent.capture.hooks import first_stream
from trainer_agent.description.spec.kernels import KernelSums
from trainer_agent.model.plan import Plan

InputKernels = dict[str, tuple[KernelSums, torch.Size]]


@contextmanager
def input_kernels(model: nn.Module, plan: Plan) -> Iterator[InputKernels]:
    """Sums and shape of each stack's input, by its first block; filled in at the end.

    Blocks that are compiled afterwards tell no hook what enters them.
    """
    inputs: dict[str, Tensor] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = first_stream((*args, *kwargs.values()))
            if x is not None:
                inputs[path] = x.detach()

        return hook

    modules = {stack.blocks[0]: model.get_submodule(stack.blocks[0]) for stack in plan.stacks}
    handles = [
        module.register_forward_pre_hook(note(path), with_kwargs=True)
        for path, module in modules.items()
    ]
    kernels: InputKernels = {}
    try:
        yield kernels
    finally:
        for handle in handles:
            handle.remove()
    kernels |= {path: (sums_of(x), x.shape) for path, x in inputs.items() if x.ndim == 3}


def sums_of(x: Tensor) -> KernelSums:
    """The sums of one batch, (batch, seq, features)."""
    sums = KernelSums()
    sums.add(x)
    return sums
