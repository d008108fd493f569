"""Which modules a training loop calls itself, rather than another module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from trainer_agent.capture.gradient_hooks import in_backward
from trainer_agent.description.planning import plan_by_structure


class CalledModules:
    """Notes the outermost modules of every forward pass with gradients, until `remove`."""

    def __init__(self) -> None:
        self._outermost: dict[nn.Module, None] = {}
        self._running: list[nn.Module] = []
        self._handles = (
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        )

    def of(self, parameters: set[int]) -> list[nn.Module]:
        """Outermost modules that hold any of these parameters, those with most blocks first."""
        modules = [m for m in self._outermost if any(id(p) in parameters for p in m.parameters())]
        return sorted(modules, key=n_blocks, reverse=True)

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, _args: Any) -> None:
        # A checkpoint calls blocks once more inside the backward pass.
        if not self._running and torch.is_grad_enabled() and not in_backward():
            self._outermost[module] = None
        self._running.append(module)

    def _leave(self, module: nn.Module, _args: Any, _output: Any) -> None:
        # Down to the module itself: those inside it that raised may not have left.
        while self._running and self._running.pop() is not module:
            pass


def n_blocks(model: nn.Module) -> int:
    """How many blocks a model's structure shows."""
    return sum(len(stack.blocks) for stack in plan_by_structure(model).stacks)
