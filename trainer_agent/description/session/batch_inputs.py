"""What enters the stacks in a pass that the user has asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer_agent.capture.hooks import first_stream
from trainer_agent.capture.token_axis import BATCH_FIRST, assumed, batch_first
from trainer_agent.description.read.parts import Architecture
from trainer_agent.description.spec.kernels import KernelSums
from trainer_agent.model.plan import Plan

InputKernels = dict[str, tuple[KernelSums, torch.Size]]


@contextmanager
def stack_inputs(model: nn.Module, plan: Plan) -> Iterator[dict[str, Tensor]]:
    """What enters each stack while this holds, by the stack's first block.

    Blocks that are compiled afterwards tell no hook what enters them.
    """
    inputs: dict[str, Tensor] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = first_stream((*args, *kwargs.values()))
            if x is not None:
                inputs[path] = x.detach()

        return hook

    modules = {
        stack.blocks[0]: model.get_submodule(stack.ends(0)[0].module) for stack in plan.stacks
    }
    handles = [
        module.register_forward_pre_hook(note(path), with_kwargs=True)
        for path, module in modules.items()
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def input_kernels(inputs: Mapping[str, Tensor], architecture: Architecture) -> InputKernels:
    """Sums of each stack's input, and its shape as (batch, seq, features)."""
    axes = {stack.blocks[0]: assumed(stack.token_axis) for stack in architecture.stacks}
    kernels: InputKernels = {}
    for path, x in inputs.items():
        if x.ndim == 3:
            tokens, _ = batch_first(x, None, axes.get(path, BATCH_FIRST))
            kernels[path] = sums_of(tokens), tokens.shape
    return kernels


def sums_of(x: Tensor) -> KernelSums:
    """The sums of one batch, (batch, seq, features)."""
    sums = KernelSums()
    sums.add(x)
    return sums
