"""Where a model's code looks functions up that no torch mode sees, or that none may see into."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from trainer_agent.capture.attention.flex import sampled_flex
from trainer_agent.capture.attention.transformers_api import FLEX, sampled_named
from trainer_agent.capture.statistics.logits import Sampled

_FLEX_MODULE = "torch.nn.attention.flex_attention"
_DYNAMO = "torch._dynamo"
_INTERFACE_MODULE = "transformers.modeling_utils"

Sample = Callable[..., Sampled | None]


@dataclass(frozen=True, slots=True)
class Door:
    """A name in a namespace, and the function it stands for.

    Attributes:
        holder: a dictionary, or a class.
        found: what the namespace holds: the function, or a staticmethod of it.
        sample: what to take of a call, given its arguments; None where it is no attention call.
        unseen: whether the function must run as if nobody looked: torch compiles for the modes
            and global functions that it finds, and would compile again.
    """

    holder: dict[str, Any] | type
    name: str
    found: Any
    sample: Sample | None
    unseen: bool = True

    @property
    def function(self) -> Callable[..., Any]:
        """The function behind it."""
        return _function(self.found)

    def swap(self, out: Any, into: Any) -> None:
        """Put `into` where `out` is; what somebody else has put there stays."""
        if isinstance(self.holder, dict):
            if self.holder.get(self.name) is out:
                self.holder[self.name] = into
        elif vars(self.holder).get(self.name) is out:
            setattr(self.holder, self.name, into)


def doors_of(model: nn.Module) -> list[Door]:
    """The doors that code of this model may go through.

    Found are the globals of every Python module, and attributes of the model's modules and their
    classes. A function kept elsewhere, in a closure or a list, is not.
    """
    flex = getattr(sys.modules.get(_FLEX_MODULE), "flex_attention", None)
    doors = list(_named())
    if flex is None and _DYNAMO not in sys.modules:
        return doors
    for holder in (*_modules(), *_parts(model)):
        for name, found in _functions(holder):
            if flex is not None and innermost(_function(found)) is flex:
                doors.append(Door(holder, name, found, sampled_flex))
            elif _is_compiled(_function(found)):
                doors.append(Door(holder, name, found, None))
    return doors


def _functions(holder: dict[str, Any] | type) -> Iterator[tuple[str, Any]]:
    names = vars(holder) if isinstance(holder, type) else holder
    for name, found in list(names.items()):
        if type(found) in {FunctionType, staticmethod}:
            yield name, found


def _function(found: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = found.__func__ if isinstance(found, staticmethod) else found
    return function


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that `torch.compile` was given."""
    while (inner := _within(function)) is not None:
        function = inner
    return function


def _within(function: Callable[..., Any]) -> Callable[..., Any] | None:
    # Torch's marks say whose they are, as `functools.wraps` copies them.
    own = getattr(function, "_torchdynamo_wrapper_id", id(function)) == id(function)
    return getattr(function, "_torchdynamo_orig_callable", None) if own else None


def _is_compiled(function: Callable[..., Any]) -> bool:
    return _within(function) is not None and not getattr(function, "_torchdynamo_disable", False)


def _modules() -> Iterator[dict[str, Any]]:
    for name, module in list(sys.modules.items()):
        ours = name == _FLEX_MODULE or name.partition(".")[0] != "torch"
        if ours and isinstance(module, ModuleType):
            yield module.__dict__


def _parts(model: nn.Module) -> Iterator[dict[str, Any] | type]:
    modules = list(model.modules())
    classes = dict.fromkeys(kind for module in modules for kind in type(module).__mro__)
    for kind in classes:
        if kind is not object and kind.__module__.partition(".")[0] != "torch":
            yield kind
    for module in modules:
        yield module.__dict__


def _named() -> Iterator[Door]:
    """Attention functions of `transformers`, by name; `sdpa` calls what is seen anyway."""
    kind: Any = getattr(sys.modules.get(_INTERFACE_MODULE), "AttentionInterface", None)
    if kind is None:
        return
    own = (value for space in _modules() for value in list(space.values()) if type(value) is kind)
    tables = [kind._global_mapping, *(interface._local_mapping for interface in own)]
    for table in {id(one): one for one in tables}.values():
        for name, function in list(table.items()):
            if name not in {"sdpa", "eager"} and not name.startswith("paged|"):
                unseen = name == FLEX or _is_compiled(function)
                yield Door(table, name, function, partial(sampled_named, name), unseen)
