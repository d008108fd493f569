"""Blocks that compute as another did: told by their graphs, so that only the first is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import Tensor, nn

from trainer_agent.description.trace.module_calls import ModuleCall
from trainer_agent.description.trace.tracer import Node, Trace, map_leaves
from trainer_agent.model.blocks import holds, members

# What equals itself by value; anything else is alike only where it is the very same object.
PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), slice, type(...)),
    *(torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format),
)
KINDS = 8  # so many graphs are kept; blocks of one model are of few kinds

T = TypeVar("T")
_field_names: dict[type, tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that no call of the block made, and torch's count of what was written to it."""

    tensor: ref[Tensor]
    version: int

    def equals(self, other: Constant) -> bool:
        """Whether both hold the same numbers still."""
        a, b = self.tensor(), other.tensor()
        if a is None or b is None or (_version(a), _version(b)) != (self.version, other.version):
            return False
        if a is b:
            return True
        # Parts of a tensor that other processes hold the rest of cannot be compared here.
        plain = type(a) is type(b) is Tensor and a.device == b.device and a.dtype == b.dtype
        comparable = plain and a.shape == b.shape and _has_memory(a) and _has_memory(b)
        return comparable and torch.equal(a, b)


@dataclass(frozen=True, slots=True)
class BlockGraph:
    """All that reading a block looks at, but for the numbers of its own matrices and vectors.

    Attributes:
        path: the block's.
        calls: of torch, in order: what was called with what, by whom.
        modules: the modules called inside, and where what they put out stands in the graph.
        constants: the tensors that came from outside.
    """

    path: str
    calls: tuple[Any, ...]
    modules: tuple[Any, ...]
    constants: tuple[Constant, ...]

    def is_like(self, other: BlockGraph) -> bool:
        """Whether another block's graph is this one with other weights."""
        return (
            self.calls == other.calls
            and self.modules == other.modules
            and all(a.equals(b) for a, b in zip(self.constants, other.constants, strict=True))
        )


@dataclass(frozen=True, slots=True)
class _Itself:
    """An object that is alike only to itself."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def block_graph(
    path: str, output: Node, trace: Trace, calls: Mapping[str, ModuleCall], model: nn.Module
) -> BlockGraph:
    """The graph of the block that `trace` has just recorded, with `path` cut off its names."""

    def inside(where: str) -> str:
        return _relative(where, path) or f"/{where}"

    def leaf(value: Any) -> Any:
        if isinstance(value, Node):
            return ("node", value.order)
        return (type(value), value) if isinstance(value, PLAIN) else _Itself(value)

    constants: list[Constant] = []
    recorded: list[Any] = [output.order]
    for node in trace.nodes:
        tensor = node.tensor() if isinstance(node.tensor, ref) else node.tensor
        if node.op == "constant" and tensor is not None:
            constants.append(Constant(ref(tensor), _version(tensor)))
        # A number that is a parameter is read as the number it is.
        number = _number(node.value) if node.op == "parameter" else None
        arguments = map_leaves((node.args, dict(node.kwargs)), leaf)
        opaque = _state_of(node, model, leaf) if node.op == "module" else ()
        kind = node.op, node.func, node.select, inside(node.where), number
        recorded.append((*kind, node.value.shape, node.value.dtype, arguments, opaque))
    modules = [
        (inside(name), call.number, None if call.node is None else call.node.order)
        for name, call in calls.items()
        if holds(path, name)
    ]
    return BlockGraph(path, tuple(recorded), tuple(modules), tuple(constants))


class ReadBlocks:
    """What was read of blocks so far, by their graphs."""

    def __init__(self) -> None:
        self._readings: list[tuple[BlockGraph, Any]] = []

    def find(self, graph: BlockGraph) -> Any:
        """What was read of a block whose graph is alike, in terms of this one; else None."""
        for other, reading in self._readings:
            if graph.is_like(other):
                return renamed(reading, other.path, graph.path)
        return None

    def add(self, graph: BlockGraph, reading: Any) -> None:
        """Keep what was read of a block."""
        if len(self._readings) < KINDS:
            self._readings.append((graph, reading))


def renamed(value: T, before: str, after: str) -> T:
    """Names of a block's parts as names of another's, in dataclasses, tuples and dicts."""

    def change(leaf: Any) -> Any:
        if isinstance(leaf, str):
            if leaf == before:
                return after
            relative = _relative(leaf, before)
            return leaf if relative is None else _absolute(relative, after)
        old = {name: getattr(leaf, name) for name in _fields(type(leaf))}
        new = {name: renamed(item, before, after) for name, item in old.items()}
        return type(leaf)(**new) if any(new[n] is not old[n] for n in old) else leaf

    return map_leaves(value, change)  # type: ignore[no-any-return]


def _relative(path: str, block: str) -> str | None:
    """A path inside a block without the block's own: "0.norm" in its first member; else None."""
    if path == block:
        return "."
    for index, member in enumerate(members(block)):
        if f"{path}.".startswith(f"{member}."):
            return f"{index}{path.removeprefix(member)}"
    return None


def _absolute(relative: str, block: str) -> str:
    index, _, rest = relative.partition(".")
    member = members(block)[int(index)]
    return f"{member}.{rest}" if rest else member


def _fields(kind: type) -> tuple[str, ...]:
    if kind not in _field_names:
        names = tuple(f.name for f in fields(kind)) if is_dataclass(kind) else ()
        _field_names[kind] = names
    return _field_names[kind]


def _state_of(node: Node, model: nn.Module, leaf: Callable[[Any], Any]) -> tuple[Any, ...]:
    """What a small module computes by, beside its vectors: its class, and what it holds."""
    module = model.get_submodule(node.where)
    attributes = {name: v for name, v in vars(module).items() if not name.startswith("_")}
    items = tuple((name, map_leaves(value, leaf)) for name, value in attributes.items())
    vectors = tuple((name, vector.shape) for name, vector in node.vectors.items())
    return (type(module), items, vectors)


def _number(value: Tensor) -> Any:
    """The number in a tensor of one; where this process cannot read it, something unlike all."""
    if value.numel() != 1:
        return None
    is_plain = type(value) in {Tensor, nn.Parameter} and _has_memory(value)
    return value.item() if is_plain else _Itself(value)


def _has_memory(tensor: Tensor) -> bool:
    """Whether its numbers can be read: FSDP frees the memory of tensors that live on."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.numel() == 0:
        return False
    steps = ((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + sum(steps) + 1) * tensor.element_size()
    return tensor.untyped_storage().nbytes() >= needed


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
