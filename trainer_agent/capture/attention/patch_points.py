"""Where a model's code looks up functions that no torch function mode may or can see."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from trainer_agent.capture.attention.flex import sampled_flex
from trainer_agent.capture.attention.transformers_api import FLEX, sampled_transformers
from trainer_agent.capture.statistics.logits import QuerySample

_FLEX_MODULE = "torch.nn.attention.flex_attention"
_DYNAMO = "torch._dynamo"
_TRANSFORMERS_MODULE = "transformers.modeling_utils"

ATTEMPTS = 10  # to list a namespace that another thread adds to
# Four fifths of all globals, where torch.compile is loaded; no model's code lies there.
_WITHOUT_MODELS = sys.stdlib_module_names | {"mpmath", "numpy", "sympy", "torch", "triton"}

TakeSample = Callable[..., QuerySample | None]


@dataclass(frozen=True, slots=True)
class PatchPoint:
    """A name in a namespace, and the function it stands for.

    Attributes:
        namespace: a dictionary, or a class.
        value: what stands there: the function, or a staticmethod of it.
        sample: what to take of a call, given its arguments; None where it is no attention call.
        hides_mode: whether the function must run without the mode and the patches: torch compiles
            for the modes and global functions that it finds, and would compile again.
    """

    namespace: dict[str, Any] | type
    name: str
    value: Any
    sample: TakeSample | None
    hides_mode: bool = True

    @property
    def function(self) -> Callable[..., Any]:
        """The function behind it."""
        return _function(self.value)

    def swap(self, old: Any, new: Any) -> None:
        """Put `new` where `old` is; what somebody else has put there stays."""
        if isinstance(self.namespace, dict):
            if self.namespace.get(self.name) is old:
                self.namespace[self.name] = new
        elif vars(self.namespace).get(self.name) is old:
            setattr(self.namespace, self.name, new)


def patch_points(model: nn.Module) -> list[PatchPoint]:
    """The patch points that code of this model may look up.

    Searched are the globals of every Python module, and attributes of the model's modules and
    their classes. A function kept elsewhere, in a closure or a list, is not found.
    """
    flex = getattr(sys.modules.get(_FLEX_MODULE), "flex_attention", None)
    points = list(_in_transformers())
    # Without dynamo nothing has been compiled: only transformers' functions are left to look for.
    if flex is None and _DYNAMO not in sys.modules:
        return points
    for namespace in (*_modules(), *_parts(model)):
        for name, value in _functions(namespace):
            if flex is not None and innermost(_function(value)) is flex:
                points.append(PatchPoint(namespace, name, value, sampled_flex))
            elif _is_compiled(_function(value)):
                points.append(PatchPoint(namespace, name, value, None))
    return points


def _entries(names: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a namespace holds now; another thread may import into it meanwhile."""
    for _ in range(ATTEMPTS):
        with suppress(RuntimeError):  # its size changed while it was listed
            return list(names.items())
    return []


def _functions(namespace: dict[str, Any] | type) -> Iterator[tuple[str, Any]]:
    names = vars(namespace) if isinstance(namespace, type) else namespace
    for name, value in _entries(names):
        # By type, not isinstance: that would ask objects of other libraries for their class.
        if type(value) in {FunctionType, staticmethod}:
            yield name, value


def _function(value: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = value.__func__ if isinstance(value, staticmethod) else value
    return function


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that `torch.compile` was given."""
    while (inner := _within(function)) is not None:
        function = inner
    return function


def _within(function: Callable[..., Any]) -> Callable[..., Any] | None:
    # `functools.wraps` copies torch's attributes: the id says whose they are.
    is_wrapper = getattr(function, "_torchdynamo_wrapper_id", id(function)) == id(function)
    return getattr(function, "_torchdynamo_orig_callable", None) if is_wrapper else None


def _is_compiled(function: Callable[..., Any]) -> bool:
    return _within(function) is not None and not getattr(function, "_torchdynamo_disable", False)


def _modules() -> Iterator[dict[str, Any]]:
    for name, module in _entries(sys.modules):
        # Of torch only where flex_attention itself lives: its own calls are not a model's.
        searched = name == _FLEX_MODULE or name.partition(".")[0] not in _WITHOUT_MODELS
        if searched and isinstance(module, ModuleType):
            yield module.__dict__


def _parts(model: nn.Module) -> Iterator[dict[str, Any] | type]:
    modules = list(model.modules())
    classes = dict.fromkeys(kind for module in modules for kind in type(module).__mro__)
    for kind in classes:
        if kind is not object and kind.__module__.partition(".")[0] != "torch":
            yield kind
    for module in modules:
        yield module.__dict__


def _in_transformers() -> Iterator[PatchPoint]:
    """Attention functions of `transformers`; its `sdpa` calls what the function mode sees."""
    kind: Any = getattr(sys.modules.get(_TRANSFORMERS_MODULE), "AttentionInterface", None)
    if kind is None:
        return
    globals_ = (value for module in _modules() for _, value in _entries(module))
    interfaces = (value for value in globals_ if type(value) is kind)
    tables = [kind._global_mapping, *(interface._local_mapping for interface in interfaces)]
    for table in {id(table): table for table in tables}.values():
        for name, function in _entries(table):
            if name not in {"sdpa", "eager"} and not name.startswith("paged|"):
                hides_mode = name == FLEX or _is_compiled(function)
                sample = partial(sampled_transformers, name)
                yield PatchPoint(table, name, function, sample, hides_mode)
