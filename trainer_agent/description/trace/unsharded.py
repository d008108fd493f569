"""A model whose parameters lie in parts over several processes, whole for one forward pass.

Inside `unsharded` no hook splits inputs or gathers parameters: each process runs the whole model
by itself, on parameters gathered block by block. Gathering is a collective: every process of the
job must enter together, and run the same pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

# Who sets the hooks that split inputs and outputs, or gather parameters.
SPLITTERS = ("torch.distributed.", "transformers.integrations.tensor_parallel")


def is_sharded(parameter: object) -> bool:
    """Whether a parameter is a part of one (a DTensor)."""
    return hasattr(parameter, "full_tensor")


def holds_shards(model: nn.Module) -> bool:
    """Whether any of a model's parameters lies over several processes."""
    return any(is_sharded(parameter) for parameter in model.parameters())


def is_flat(model: nn.Module) -> bool:
    """Whether parameters are hidden in flat ones, as FSDP's first version does."""
    return any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())


@contextmanager
def unsharded(model: nn.Module, blocks: Collection[str]) -> Iterator[dict[int, str]]:
    """Run the whole model here; yields every parameter's name by its identity at the time.

    A block's parameters are whole until the next one begins, those outside of blocks to the end.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if not holds_shards(model):
        yield names
        return
    outside, of_block = _Gathered(names), _Gathered(names)
    modules = dict(model.named_modules())
    inside = {id(m) for path in blocks for m in modules[path].modules()}

    def enter(block: nn.Module, _args: object) -> None:
        of_block.put_back()
        of_block.take(block.modules())

    with ExitStack() as stack:
        stack.enter_context(_without_splitting(model))
        stack.enter_context(_hushed("torch.distributed.tensor._redistribute"))
        for gathered in (outside, of_block):
            stack.callback(gathered.put_back)
        outside.take(m for m in modules.values() if id(m) not in inside)
        for path in blocks:
            stack.callback(modules[path].register_forward_pre_hook(enter).remove)
        yield names


class _Gathered:
    """Whole parameters that stand in the places of sharded ones."""

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self._replaced: list[tuple[nn.Module, str, nn.Parameter, int]] = []

    def take(self, modules: Iterable[nn.Module]) -> None:
        """Gather the modules' own parameters, a shared one once."""
        gathered: dict[int, nn.Parameter] = {}
        for module in modules:
            for key, parameter in module._parameters.items():
                if parameter is None or not is_sharded(parameter):
                    continue
                if id(parameter) not in gathered:
                    gathered[id(parameter)] = nn.Parameter(_full(parameter), requires_grad=False)
                full = gathered[id(parameter)]
                self._names[id(full)] = self._names[id(parameter)]
                self._replaced.append((module, key, parameter, id(full)))
                module._parameters[key] = full

    def put_back(self) -> None:
        """Set the sharded ones in their places again."""
        replaced, self._replaced = self._replaced, []
        for module, key, parameter, identity in replaced:
            module._parameters[key] = parameter
            self._names.pop(identity, None)


def _full(parameter: Any) -> Tensor:
    full: Tensor = parameter.detach().full_tensor()
    return full


@contextmanager
def _hushed(name: str) -> Iterator[None]:
    """Keep a logger's advice on how a job should gather its parameters from its user."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _without_splitting(model: nn.Module) -> Iterator[None]:
    """Take away the hooks of libraries that split a model; the user's own stay."""
    hooks_before: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            if any(map(_splits, hooks.values())):
                hooks_before.append((hooks, dict(hooks)))
                others = {key: hook for key, hook in hooks.items() if not _splits(hook)}
                hooks.clear()
                hooks.update(others)
    try:
        yield
    finally:
        for hooks, before in hooks_before:
            hooks.clear()
            hooks.update(before)


def _splits(hook: Callable[..., Any]) -> bool:
    inner: Any = hook
    while hasattr(inner, "func"):  # functools.partial
        inner = inner.func
    return str(getattr(inner, "__module__", "")).startswith(SPLITTERS)
