"""What may change about a model while it trains: where it is, and what of it is compiled."""

from __future__ import annotations

import torch
from torch import nn

from trainer_agent.capture.hooks import is_compiled
from trainer_agent.model.blocks import members
from trainer_agent.model.plan import Plan


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def has_compiled_parts(model: nn.Module) -> bool:
    """Whether a module inside the model is compiled by itself."""
    return any(is_compiled(module) for module in model.modules() if module is not model)


class BlockSlots:
    """Where the blocks of a plan are held: another may be put there, as ``torch.compile`` gives."""

    def __init__(self, plan: Plan, model: nn.Module) -> None:
        blocks = (block for stack in plan.stacks for block in stack.blocks)
        paths = (path.rpartition(".") for block in blocks for path in members(block))
        self._slots = [(model.get_submodule(parent)._modules, name) for parent, _, name in paths]
        self._state = self._read()

    def changed(self) -> bool:
        """Whether a block was replaced or compiled since this was made."""
        return self._read() != self._state

    def clear(self) -> None:
        """Hold no block any longer."""
        self._slots = []

    def _read(self) -> list[tuple[int, bool]]:
        # Read off the containers: `get_submodule` would walk every path again in each sampled pass.
        blocks = (modules[name] for modules, name in self._slots)
        return [(id(block), is_compiled(block)) for block in blocks if block is not None]
