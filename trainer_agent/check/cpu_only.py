"""Has a script that asks for a GPU by name compute on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._device import _device_constructors

# Loaded while torch is as it was: parts of it know torch's functions by identity.
import trainer_agent.description.read.recognition  # noqa: F401

CPU = torch.device("cpu")
ACCELERATORS = ("cuda", "mps", "xpu")
# Of torch.cuda, what raises without a device and has nothing to say of a step, with its answer.
CUDA_CALLS: dict[str, Any] = {
    "set_device": None,
    "synchronize": None,
    "current_device": 0,
    "reset_peak_memory_stats": None,
    "get_device_name": "CPU",
}


@contextmanager
def replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute within the context."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextmanager
def noted_compilation() -> Iterator[list[str]]:
    """The names of what a script has compiled, which torch leaves as it is in a check."""
    names: list[str] = []
    compile_function = torch.compile

    def noting(*args: Any, **kwargs: Any) -> Any:
        names.append(str(getattr(args[0], "__name__", type(args[0]).__name__)) if args else "")
        return compile_function(*args, **kwargs)

    with replaced(torch, "compile", noting):
        yield names


@contextmanager
def on_cpu() -> Iterator[None]:
    """Take a GPU's name for the CPU's wherever a script moves or makes a tensor or module."""
    with ExitStack() as stack:

        def replace(holder: Any, name: str, make: Callable[[Any], Any]) -> None:
            stack.enter_context(replaced(holder, name, make(getattr(holder, name))))

        for kind in (Tensor, nn.Module):
            replace(kind, "to", _with_cpu)
            replace(kind, "cuda", _unmoved)
        replace(Tensor, "pin_memory", _unmoved)
        replace(torch, "set_default_device", _with_cpu)
        replace(torch, "load", _with_cpu)
        constructors = set(_device_constructors())
        for name in dir(torch):
            function = getattr(torch, name)
            # A set of callables alone: other attributes of torch need not be hashable.
            if callable(function) and function.__hash__ and function in constructors:
                replace(torch, name, _with_cpu)
        for name, answer in CUDA_CALLS.items():
            stack.enter_context(replaced(torch.cuda, name, _constant(answer)))
        yield


def _with_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        named = {name: _cpu_for(value) for name, value in kwargs.items()}
        return function(*map(_cpu_for, args), **named)

    return call


def _unmoved(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *_args, **_kwargs: self


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_args, **_kwargs: value


def _cpu_for(value: Any) -> Any:
    """The CPU for the name of an accelerator, and any other value as it is."""
    if isinstance(value, torch.device):
        return CPU if value.type in ACCELERATORS else value
    if isinstance(value, str) and value.partition(":")[0] in ACCELERATORS:
        return "cpu"
    return value
