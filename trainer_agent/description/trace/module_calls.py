"""Hooks on every module for the length of one forward pass: which calls are whose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer_agent.capture.hooks import first_stream
from trainer_agent.description.trace.graph import is_view_of
from trainer_agent.description.trace.replay import result_of, stream_of
from trainer_agent.description.trace.tracer import Node, Trace
from trainer_agent.description.trace.unsharded import holds_shards
from trainer_agent.model.blocks import holds
from trainer_agent.model.plan import Edge

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


class BlockListener(Protocol):
    """What is told of every block's call."""

    def enter_block(self, path: str, before: Arguments, args: Arguments) -> None:
        """A block is called with `before`, and computes on what hooks made of it."""

    def hand_on(self, before: Tensor, after: Tensor) -> None:
        """A module inside or outside computes on `after`, which a hook has made of `before`."""

    def leave_block(self, path: str, output: Any) -> None:
        """Its call is over, all hooks included."""

    def ends_row(self, args: Arguments) -> bool:
        """Whether a module outside of a row of loose blocks is given what the last one made."""
        ...

    def pass_edge(self, block: str, edge: Edge) -> None:
        """The stream enters a loose block here; it leaves the last of a row at its end's edge."""


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """The last call of a module: what it was given and has put out, hooks included.

    `node` is that output's, and `number` counts the calls in the block that runs. `versions` are
    torch's counts of what was written to its first input and output when it ended.
    """

    args: Arguments
    output: Any
    node: Node | None = None
    number: int = 1
    versions: tuple[int, int] = (0, 0)

    @property
    def input(self) -> Tensor | None:
        """Its first tensor of tokens and features; None where it was written to since."""
        x = _input_of(self.args)
        return x if _version_of(x) == self.versions[0] else None

    @property
    def result(self) -> Tensor | None:
        """What it put out; None where that was written to since."""
        x = first_stream(self.output)
        return x if _version_of(x) == self.versions[1] else None


class ModuleCalls:
    """Hooks on the modules of a model; they change nothing, and fail into the trace alone.

    A hook stands first and one last on either side of each module's forward. What other hooks
    between them (tensor parallelism, FSDP) hand on is noted as an alias of what they were given.

    Attributes:
        calls: of the modules inside the block that runs or ran last, by path.
        outside: modules that were called while no block ran.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Collection[str],
        trace: Trace,
        listener: BlockListener,
        *,
        loose: Collection[str] = (),
    ) -> None:
        """Note the calls of `blocks`, and of the parts of `loose` ones, which are not called."""
        self.calls: dict[str, ModuleCall] = {}
        self.outside: set[str] = set()
        self._block: str | None = None
        self._trace, self._listener = trace, listener
        self._blocks = frozenset(blocks)
        self._handles: list[RemovableHandle] = []
        self._thread = threading.get_ident()
        self._names, self._is_sharded = _names_by_path(model), holds_shards(model)
        self._modules = dict(model.named_modules())
        self._block_of = {
            path: block for block in loose for path in self._modules if holds(block, path)
        }
        self._loose: str | None = None  # the loose block that runs
        self._caller = ""  # the module whose forward walks over them
        self._open: list[str] = []
        self._before: dict[str, Arguments] = {}
        self._raw: dict[str, Any] = {}

    def attach(self) -> None:
        """Set the hooks: none on the model itself, which is running.

        Where its forward raises, torch goes through the model's own hooks one by one, and none of
        them may be taken away meanwhile.
        """
        for path, module in self._modules.items():
            if not path or isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                continue
            first, last = self._hook(self._first_before, path), self._hook(self._last_before, path)
            add = module.register_forward_pre_hook
            self._handles.append(add(first, prepend=True, with_kwargs=True))
            self._handles.append(add(last, with_kwargs=True))
            first, last = self._hook(self._first_after, path), self._hook(self._last_after, path)
            after = module.register_forward_hook
            self._handles.append(after(first, prepend=True, with_kwargs=True))
            self._handles.append(after(last, with_kwargs=True))

    def detach(self) -> None:
        """Take them away, and what they hold."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.calls, self._before, self._raw = {}, {}, {}

    def _hook(self, call: Callable[..., None], path: str) -> _Hook:
        return _Hook(partial(self._guarded, call, path))

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        # Replicas of data parallelism call the hooks of one module in threads of their own.
        trace = self._trace
        if trace.failure is not None or threading.get_ident() != self._thread:
            return
        started = time.perf_counter()
        try:
            with torch._C.DisableTorchFunction():  # what is called here is no call of the job's
                call(*arguments)
        except Exception as error:
            trace.fail(error)
        trace.spent_s += time.perf_counter() - started

    def _first_before(self, path: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self._before[path] = (args, kwargs)

    def _last_before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._is_sharded or getattr(module, "_is_replica", False):
            self._rename(path, module)
        before = self._before.pop(path, (args, kwargs))
        for tensor, handed_on in pairs_of(before, (args, kwargs)):
            self._trace.alias(tensor, handed_on)
            self._listener.hand_on(tensor, handed_on)
        self._pass_edges(path, before, (args, kwargs))
        self._open.append(path)
        if path not in self._blocks and self._block is None:
            self.outside.add(path)
        if path in self._blocks:
            self.calls, self._block = {}, path
            self._listener.enter_block(path, before, (args, kwargs))
        elif self._trace.recording:
            self._trace.enter_module(path)

    def finish(self, output: Any) -> None:
        """The whole pass is over, and with it a loose block that still runs."""
        if self._loose is not None:
            self._leave_loose(output, Edge("", is_input=False))

    def _pass_edges(self, path: str, before: Arguments, args: Arguments) -> None:
        """Leave and enter the loose blocks whose parts are called one after the other."""
        block = self._block_of.get(path)
        if path in self._blocks or (self._block is not None and self._loose is None):
            return
        stream = stream_of(*args)
        if stream is None:
            return
        if block is not None and block != self._loose:
            edge = Edge(path, is_input=True)
            if self._loose is not None:
                self._leave_loose(stream, edge)
            self._loose, self._caller = block, self._open[-1] if self._open else ""
            self.calls, self._block = {}, block
            self._listener.enter_block(block, before, args)
            self._listener.pass_edge(block, edge)
        elif block is None and self._loose is not None and self._listener.ends_row(args):
            self._leave_loose(stream, Edge(path, is_input=True))

    def _leave_loose(self, output: Any, edge: Edge) -> None:
        block, self._loose, self._block = self._loose, None, None
        assert block is not None
        self._listener.leave_block(block, output)
        self._listener.pass_edge("", edge)

    def _first_after(self, path: str, module: nn.Module, args: Any, _kwargs: Any, y: Any) -> None:
        self._raw[path] = y
        if path in self._open:
            del self._open[self._open.index(path) :]
        if self._loose is not None and path == self._caller:
            self._leave_loose(y, Edge(path, is_input=False))
        if not self._trace.recording or path in self._blocks:
            return
        self._trace.leave_module(path)
        if (_is_small(module) and not _drops(module)) or _gains_heads(module, y):
            # Here its parameters are whole; FSDP's own hook, which comes next, may take them away.
            parameters = module.named_parameters(recurse=False)
            vectors = {name: self._trace.value_of(vector) for name, vector in parameters}
            if vectors or not self._only_views(args, y):
                self._trace.collapse(path, args, y, vectors)

    def _only_views(self, args: Any, y: Any) -> bool:
        """Whether a module moves numbers about and computes nothing (einops' Rearrange)."""
        if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(y, Tensor):
            return False
        source, made = self._trace.find(args[0]), self._trace.find(y)
        known = source is not None and made is not None and made is not source
        return known and source is not None and made is not None and is_view_of(made, source)

    def _last_after(self, path: str, _module: nn.Module, args: Any, kwargs: Any, y: Any) -> None:
        for tensor, handed_on in pairs_of(self._raw.pop(path, y), y):
            self._trace.alias(tensor, handed_on)
        if path in self._blocks:
            self._block = None
            self._listener.leave_block(path, y)
        elif not self._trace.is_outside:
            former = self.calls.get(path)
            number = 1 if former is None else former.number + 1
            # Now, before a call in place makes another tensor of it.
            node, ends = self._node_of(y), (_input_of((args, kwargs)), first_stream(y))
            versions = _version_of(ends[0]), _version_of(ends[1])
            self.calls[path] = ModuleCall((args, kwargs), y, node, number, versions)

    def _node_of(self, output: Any) -> Node | None:
        result = result_of(output)
        return None if result is None else self._trace.find(result)

    def _rename(self, path: str, module: nn.Module) -> None:
        """Name the parameters that FSDP, or data parallelism, has put in the places of others."""
        for inner, owner in module.named_modules(prefix=path):
            for key, parameter in getattr(owner, "_former_parameters", owner._parameters).items():
                name = f"{inner}.{key}" if inner else key
                if parameter is not None:
                    self._trace.names[id(parameter)] = self._names.get(name, name)


class _Hook:
    """A hook that a copied or pickled module loses."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        self._call(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


def _input_of(args: Arguments) -> Tensor | None:
    return first_stream((*args[0], *args[1].values()))


def _version_of(x: Tensor | None) -> int:
    return 0 if x is None or x.is_inference() else x._version


def _is_small(module: nn.Module) -> bool:
    """Whether a module may be a norm or an activation: no parts of its own, no matrices."""
    flat = all(p.ndim <= 1 for p in module.parameters())
    return flat and next(module.children(), None) is None


def _drops(module: nn.Module) -> bool:
    """Whether a module drops whole sequences at random (stochastic depth), as its name says."""
    name = type(module).__name__.lower()
    return "drop" in name or "stochastic" in name


def _gains_heads(module: nn.Module, output: Any) -> bool:
    """Whether its one parameter has a row for each head of (..., heads, features)."""
    parameters = list(module.parameters())
    if len(parameters) != 1 or not isinstance(output, Tensor) or output.ndim != 4:
        return False
    is_matrix = isinstance(module, (nn.Linear, nn.Embedding)) or next(module.children(), None)
    return not is_matrix and parameters[0].shape == output.shape[2:]


def _names_by_path(model: nn.Module) -> dict[str, str]:
    """By every name of a parameter the first of its names, as `named_parameters` lists it."""
    firsts: dict[int, str] = {}
    every = dict(model.named_parameters(remove_duplicate=False))
    return {name: firsts.setdefault(id(parameter), name) for name, parameter in every.items()}


def pairs_of(before: Any, after: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors at the same place of two values built alike."""
    if before is after:
        return
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        yield before, after
    elif isinstance(before, (tuple, list)) and isinstance(after, (tuple, list)):
        for item, other in zip(before, after, strict=False):
            yield from pairs_of(item, other)
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in before.keys() & after.keys():
            yield from pairs_of(before[key], after[key])
