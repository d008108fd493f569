"""Where no trace may run: beside code that torch compiles, captures or transforms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import nn

FLEX = "torch.nn.attention.flex_attention"


def compiled_part(model: nn.Module) -> str | None:
    """A compiled module of the model, or a compiled function that its code names; None if none.

    Torch compiles for the modes that it finds on its stack: beside a trace it would do so anew.
    Looked for among the globals and classes of the modules' code, and their attributes. What is
    kept elsewhere, in a closure or a list, is not found.
    """
    for path, module in model.named_modules():
        if _is_compiled_module(module):
            return path or type(model).__name__
    if getattr(getattr(model, "config", None), "_attn_implementation", "") == "flex_attention":
        return "flex_attention"
    if "torch._dynamo" not in sys.modules and FLEX not in sys.modules:
        return None
    flex = getattr(sys.modules.get(FLEX), "flex_attention", None)
    for space in _namespaces(model):
        for name, value in list(space.items()):
            function = getattr(value, "__func__", value)
            if type(function) is FunctionType and (function is flex or _is_compiled(function)):
                return name
    return None


def is_transformed() -> bool:
    """Whether the pass that now begins is captured in a graph, or one of `torch.func`'s.

    Nothing of it can be read: its tensors stand for others, or hold nothing yet.
    """
    is_initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if is_initialized and torch.cuda.is_current_stream_capturing():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def runs_beside_compiled_code() -> bool:
    """Whether the pass that now begins is what torch has left over of a model it compiles."""
    if "torch._dynamo" not in sys.modules:
        return False
    callback = torch._C._dynamo.eval_frame.get_eval_frame_callback()
    return callback is not None and callback is not False


def _is_compiled_module(module: nn.Module) -> bool:
    compiled_call = vars(module).get("_compiled_call_impl")
    return compiled_call is not None or type(module).__name__ == "OptimizedModule"


def _is_compiled(function: Callable[..., Any]) -> bool:
    # Torch's marks say whose they are, as `functools.wraps` copies them.
    is_original = getattr(function, "_torchdynamo_wrapper_id", id(function)) == id(function)
    inner = getattr(function, "_torchdynamo_orig_callable", None)
    return (
        is_original and inner is not None and not getattr(function, "_torchdynamo_disable", False)
    )


def _namespaces(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    modules = list(model.modules())
    classes = dict.fromkeys(kind for module in modules for kind in type(module).__mro__)
    foreign = {"torch", "builtins"}
    custom = [kind for kind in classes if kind.__module__.partition(".")[0] not in foreign]
    for name in dict.fromkeys(kind.__module__ for kind in custom):
        if name in sys.modules:
            yield vars(sys.modules[name])
    for kind in custom:
        yield vars(kind)
    for module in modules:
        yield vars(module)
