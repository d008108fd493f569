"""How the agent refers to a model that it must not keep alive."""

from __future__ import annotations

from collections.abc import Callable
from weakref import ref

from torch import nn

ModelReference = Callable[[], nn.Module]


def refer_to(model: nn.Module) -> ModelReference:
    """A function that returns the model while the job holds it, and raises ReferenceError after.

    A list of modules, which nobody calls, may have been made for `watch` alone: it is held.
    """
    if type(model).forward is nn.Module.forward:
        return lambda: model
    weak = ref(model)

    def alive() -> nn.Module:
        module = weak()
        if module is None:
            raise ReferenceError("the model that was watched is gone")
        return module

    return alive
