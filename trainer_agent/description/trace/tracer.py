"""A part of a forward pass, written down as a graph of the torch calls it made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

NAMED_OPS = frozenset({"layer_norm", "rms_norm", "dropout", "gelu", "relu", "silu", "tanh"})
# Outside of blocks a tensor so many times larger than the stream (logits) is kept by its shape:
# the job frees it before its step needs the most memory.
LARGE = 8
PARTS = frozenset({"__getitem__", "narrow", "select"})  # views that are written to
EMPTY = frozenset({"new_empty", "empty", "empty_like", "new_zeros", "zeros", "zeros_like"})


@dataclass(eq=False, slots=True)
class Node:
    """A tensor of the trace and the call that made it.

    Attributes:
        op: name of the torch function; or "input", "parameter", "constant", "module", "alias".
        args, kwargs: its arguments, with nodes in the place of tensors.
        value: what the tensor held then; of a DTensor that is no parameter, this process's part.
        where: path of the module that made the call; of a parameter, its name.
        select: index in the function's result, where that was a tuple.
        order: position in the trace; what comes later depends on what came before.
        tensor: the tensor itself; held, so that no other takes its identity meanwhile.
        vectors: of a small module, what its parameters held, by their names in it.
        noted_inputs: what `inputs` has found in the arguments, which do not change.
    """

    op: str
    value: Tensor
    where: str
    order: int
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    func: Callable[..., Any] | None = None
    select: int | None = None
    tensor: Tensor | ref[Tensor] | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    noted_inputs: tuple[Node, ...] | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        """Nodes among the arguments, in order."""
        if self.noted_inputs is None:
            self.noted_inputs = tuple(nodes_in((self.args, tuple(self.kwargs.values()))))
        return self.noted_inputs

    def is_of(self, tensor: Tensor) -> bool:
        """Whether it stands for this very tensor."""
        source = self.tensor() if isinstance(self.tensor, ref) else self.tensor
        return source is tensor


def nodes_in(value: Any) -> Iterator[Node]:
    """Nodes anywhere inside nested tuples, lists and dicts."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from nodes_in(item)
    elif isinstance(value, Mapping):
        yield from nodes_in(tuple(value.values()))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors anywhere inside nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        yield from tensors_in(tuple(value.values()))


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """Rebuild nested tuples, lists and dicts with every leaf changed."""
    if isinstance(value, tuple):  # of a list: a generator takes longer, and this runs at each call
        return tuple([map_leaves(item, change) for item in value])
    if isinstance(value, list):
        return [map_leaves(item, change) for item in value]
    if isinstance(value, dict):
        return {key: map_leaves(item, change) for key, item in value.items()}
    return change(value)


class Trace(TorchFunctionMode):
    """Records torch calls between `begin` and `end` and passes every call on.

    A failure of its own ends the recording and is noted; the calls go on. Tensors are held no
    longer than until the next `begin` or `end`.

    Attributes:
        names: the parameters' names by identity, which may change while the pass runs.
        nodes: what has been recorded, in order.
        modules: small modules by path, each as one node from its input to its output.
        embeddings: the last lookup in each table: the table's name, ids, rows.
        undropped: the last tensor that dropout put out before the blocks, and what it was given.
        failure: what ended the recording, or None.
        spent_s: seconds taken beside the calls themselves.
    """

    def __init__(self, names: dict[int, str], *, with_dropout: bool) -> None:
        """Leave dropout out unless `with_dropout`, as a pass that nobody trains on can.

        What is recognised is checked against numbers; dropout is a call of its own, so that the
        numbers before and after it are there either way.
        """
        super().__init__()
        self.names = names
        self.path: list[str] = [""]
        self.recording = False
        self.nodes: list[Node] = []
        self.modules: dict[str, Node] = {}
        self.embeddings: dict[str, tuple[Tensor, Tensor]] = {}
        self.undropped: tuple[Tensor, Tensor] | None = None
        self.failure: Exception | None = None
        self.spent_s = 0.0
        self._with_dropout = with_dropout
        self._of_tensor: dict[int, Node] = {}
        self._limit: int | None = None
        self._large = 0

    @property
    def is_outside(self) -> bool:
        """Whether no block is being recorded."""
        return not self.recording or self._limit is not None

    def begin(self, path: str, stream: Tensor, limit: int | None = None) -> Node:
        """Start a graph whose input is `stream`.

        With a `limit` it holds what is made of that input alone, up to so many nodes.
        """
        self.end()
        self.path = [path]
        self.recording, self._limit = True, limit
        self._large = LARGE * stream.numel()
        return self._add(Node("input", self.value_of(stream), path, 0), stream)

    def end(self) -> None:
        """Forget the graph and the tensors it held."""
        self.nodes, self._of_tensor, self.modules, self.path = [], {}, {}, [""]
        self.recording = False

    def fail(self, error: Exception) -> None:
        """Record no further; the first reason is kept."""
        self.failure = self.failure or error
        self.end()

    def enter_module(self, path: str) -> None:
        """Name the calls that follow."""
        self.path.append(path)

    def leave_module(self, path: str) -> None:
        """Go back to naming the module around it; one entered before `begin` is not named."""
        if self.path[-1] == path:
            self.path.pop()

    def collapse(
        self, path: str, inputs: tuple[Any, ...], output: Any, vectors: Mapping[str, Tensor]
    ) -> None:
        """Note a small module as one node: its numbers tell what it is."""
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            return
        node = Node(
            "module", self.value_of(output), path, 0, (self.node(inputs[0]),), vectors=vectors
        )
        self.modules[path] = node
        made_by = self.find(output)
        if made_by is not None and made_by.op not in NAMED_OPS and output is not inputs[0]:
            self._add(node, output)

    def alias(self, before: Tensor, after: Tensor) -> None:
        """Note that a hook hands on one tensor for another: a part of it, or all of its parts."""
        if not self.recording or after is before or not self._follows((before,), {}):
            return
        source, made = self.node(before), self.find(after)
        if made is None or not _derives(made, source):
            self._add(Node("alias", self.value_of(after), self.path[-1], 0, (source,)), after)

    def find(self, tensor: Tensor) -> Node | None:
        """The node of a tensor, None where no recorded call used or made it."""
        node = self._of_tensor.get(id(tensor))
        return node if node is not None and node.is_of(tensor) else None

    def node(self, tensor: Tensor) -> Node:
        """The node of a tensor; a parameter or a constant if no traced call made it."""
        node = self.find(tensor)
        if node is not None:
            return node
        name = self.names.get(id(tensor))
        if name is not None:
            return self._add(Node("parameter", tensor, name, 0), tensor)
        return self._add(Node("constant", self.value_of(tensor), self.path[-1], 0), tensor)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the call and write it down."""
        kwargs = kwargs or {}
        if torch.compiler.is_compiling() or self.failure is not None:
            return func(*args, **kwargs)
        started = time.perf_counter()
        name, noted = _name(func), None
        try:
            if self._follows(args, kwargs):
                noted = self._noted(args), self._noted(kwargs)
                if _writes_in_place(name, args, kwargs):
                    _keep_value(next(nodes_in(noted), None))
        except Exception as error:  # the job's call is not to fail with the note of it
            self.fail(error)
        called = time.perf_counter()
        result = self._call(func, name, args, kwargs)
        returned = time.perf_counter()
        try:
            if noted is not None and self.recording:
                self._write(func, name, *noted, result)
                self._assemble(name, noted[0])
            self._note(name, args, kwargs, result)
        except Exception as error:
            self.fail(error)
        self.spent_s += time.perf_counter() - returned + called - started
        return result

    def _follows(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        if not self.recording or self._limit is None:
            return self.recording
        return any(self.find(tensor) is not None for tensor in tensors_in((args, kwargs)))

    def _noted(self, value: Any) -> Any:
        """The arguments with nodes in the place of tensors."""
        return map_leaves(value, lambda v: self.node(v) if isinstance(v, Tensor) else v)

    def _write(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        single = isinstance(result, Tensor)
        items = [result] if single else result if isinstance(result, (tuple, list)) else []
        for i, item in enumerate(items):
            if isinstance(item, Tensor):
                select = None if single else i
                value = self.value_of(item)
                self._add(Node(name, value, self.path[-1], 0, args, kwargs, func, select), item)

    def _assemble(self, name: str, args: Any) -> None:
        """Note that a tensor was written to in part: it is made of what it was and of that."""
        written = args[0] if args and isinstance(args[0], Node) else None
        if name == "copy_" and written is not None and written.op in PARTS:
            written, source = written.inputs[0], args[1]
        elif name == "__setitem__" and len(args) == 3:
            source = args[2]
        else:
            return
        tensor = None if written is None else written.tensor
        if written is None or not isinstance(tensor, Tensor) or not isinstance(source, Node):
            return
        before = written.args if written.op == "assemble" else ()
        before = before if before or written.op in EMPTY else (written,)
        node = Node("assemble", self.value_of(tensor), self.path[-1], 0, (*before, source))
        self._add(node, tensor)

    def _note(self, name: str, args: tuple[Any, ...], kwargs: Any, result: Any) -> None:
        """Keep what the stream into the blocks is made of."""
        if name == "embedding" and isinstance(result, Tensor):
            table = args[1] if len(args) > 1 else kwargs.get("weight")
            ids = args[0] if args else kwargs.get("input")
            if isinstance(ids, Tensor) and id(table) in self.names:
                self.embeddings[self.names[id(table)]] = ids, self.value_of(result)
        elif name == "dropout" and self.is_outside and isinstance(result, Tensor):
            self.undropped = result, args[0] if args else kwargs["input"]

    def _call(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._with_dropout:
            return func(*args, **kwargs)
        return _without_dropout(func, name, args, kwargs)

    def value_of(self, tensor: Any) -> Tensor:
        """What a tensor holds here; of a large one outside of blocks its shape alone."""
        value: Tensor = tensor
        with torch.no_grad():
            if hasattr(tensor, "to_local"):
                value = tensor.to_local()
            if self._is_large(value):
                return torch.empty(value.shape, dtype=value.dtype, device="meta")
            return value.detach()

    def _is_large(self, value: Tensor) -> bool:
        followed = self.recording and self._limit is not None
        return followed and value.is_floating_point() and value.numel() > self._large

    def _add(self, node: Node, tensor: Tensor) -> Node:
        # the same tensor may get a new meaning: dropout left out, or a call in place
        node.order = len(self.nodes)
        node.tensor = ref(tensor) if node.value.is_meta else tensor
        self.nodes.append(node)
        self._of_tensor[id(tensor)] = node
        if self._limit is not None and len(self.nodes) >= self._limit:
            self.recording = False
        return node


def _derives(node: Node, source: Node) -> bool:
    """Whether a node was computed from another one."""
    pending, visited = [node], {id(node)}
    while pending:
        current = pending.pop()
        if current is source:
            return True
        for earlier in current.inputs:
            if earlier.order >= source.order and id(earlier) not in visited:
                visited.add(id(earlier))
                pending.append(earlier)
    return False


def _name(func: Callable[..., Any]) -> str:
    """The function's name; of a property's getter, the property's."""
    name = getattr(func, "__name__", "unknown")
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return str(name)


def _writes_in_place(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    in_place = name.endswith("_") and not name.endswith("__")
    if name == "dropout":  # its module gives the flag by position
        in_place = len(args) > 3 and bool(args[3])
    return (
        in_place or name in {"__setitem__", "__iadd__", "__imul__"} or bool(kwargs.get("inplace"))
    )


def _keep_value(node: Node | None) -> None:
    """Keep what the tensor holds now, before a call writes over it."""
    if node is not None:
        with torch.no_grad():
            node.value = node.value.clone()


def _without_dropout(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if name == "dropout":
        return args[0] if args else kwargs["input"]
    if name == "scaled_dot_product_attention":
        args, kwargs = args[:4] + args[5:6], {**kwargs, "dropout_p": 0.0}
    return func(*args, **kwargs)
