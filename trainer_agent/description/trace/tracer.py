"""One block's forward pass, written down as a graph of the torch calls it made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

KNOWN_OPS = frozenset({"layer_norm", "rms_norm", "dropout", "gelu", "relu", "silu", "tanh"})


@dataclass(eq=False, slots=True)
class Node:
    """A tensor of the trace and the call that made it.

    Attributes:
        op: name of the torch function; or "input", "parameter", "constant", "module".
        args, kwargs: its arguments, with nodes in the place of tensors.
        value: the tensor; held, so that no other takes its identity meanwhile.
        where: path of the module that made the call; of a parameter, its name.
        select: index in the function's result, where that was a tuple.
        order: position in the trace; what comes later depends on what came before.
    """

    op: str
    value: Tensor
    where: str
    order: int
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    func: Callable[..., Any] | None = None
    select: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        """Nodes among the arguments, in order."""
        return tuple(nodes_in((self.args, tuple(self.kwargs.values()))))


def nodes_in(value: Any) -> Iterator[Node]:
    """Nodes anywhere inside nested tuples, lists and dicts."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from nodes_in(item)
    elif isinstance(value, Mapping):
        yield from nodes_in(tuple(value.values()))


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """Rebuild nested tuples, lists and dicts with every leaf changed."""
    if isinstance(value, tuple):
        return tuple(map_leaves(item, change) for item in value)
    if isinstance(value, list):
        return [map_leaves(item, change) for item in value]
    if isinstance(value, dict):
        return {key: map_leaves(item, change) for key, item in value.items()}
    return change(value)


class Trace(TorchFunctionMode):
    """Records torch calls between `begin` and `end`; dropout is noted and left out.

    Leaving dropout out makes the pass deterministic, so that what is recognised can be checked
    against its numbers, and draws nothing from the random state.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        """Name parameters by `names`, which may change while the pass runs."""
        super().__init__()
        self.names = names
        self.path: list[str] = []
        self.recording = False
        self.limit: int | None = None
        self.nodes: list[Node] = []
        self.of_tensor: dict[int, Node] = {}

    def begin(self, path: str, stream: Tensor, limit: int | None = None) -> Node:
        """Start a graph whose input is `stream`; it stops growing at `limit` nodes."""
        self.nodes, self.of_tensor, self.path = [], {}, [path]
        self.recording, self.limit = True, limit
        return self._add(Node("input", stream, path, 0), stream)

    def end(self) -> None:
        """Forget the graph and the tensors it held."""
        self.nodes, self.of_tensor, self.path = [], {}, []
        self.recording = False

    def enter_module(self, path: str) -> None:
        """Name the calls that follow."""
        self.path.append(path)

    def leave_module(self, path: str) -> None:
        """Go back to naming the module around it; one entered before `begin` is not named."""
        if self.path[-1] == path:
            self.path.pop()

    def collapse(self, path: str, inputs: tuple[Any, ...], output: Any) -> None:
        """Note a small module made of unknown calls as one node: its numbers tell what it is."""
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            return
        made_by = self.of_tensor.get(id(output))
        if made_by is None or made_by.op in KNOWN_OPS or output is inputs[0]:
            return
        self._add(Node("module", output, path, 0, (self.node(inputs[0]),)), output)

    def node(self, tensor: Tensor) -> Node:
        """The node of a tensor; a parameter or a constant if no traced call made it."""
        known = self.of_tensor.get(id(tensor))
        if known is not None:
            return known
        name = self.names.get(id(tensor))
        op = "constant" if name is None else "parameter"
        return self._add(Node(op, tensor, name or self.path[-1], 0), tensor)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the call, dropout apart, and write it down."""
        kwargs = kwargs or {}
        name = _name(func)
        if not self.recording:
            return _without_dropout(func, name, args, kwargs)
        noted_args, noted_kwargs = self._noted(args), self._noted(kwargs)
        if _writes_in_place(name, kwargs):
            _keep_value(next(nodes_in((noted_args, noted_kwargs)), None))
        result = _without_dropout(func, name, args, kwargs)
        self._write(func, name, noted_args, noted_kwargs, result)
        return result

    def _noted(self, value: Any) -> Any:
        """The arguments with nodes in the place of tensors."""
        return map_leaves(value, lambda v: self.node(v) if isinstance(v, Tensor) else v)

    def _write(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        single = isinstance(result, Tensor)
        items = [result] if single else result if isinstance(result, (tuple, list)) else []
        for i, item in enumerate(items):
            if isinstance(item, Tensor):
                select = None if single else i
                self._add(Node(name, item, self.path[-1], 0, args, kwargs, func, select), item)

    def _add(self, node: Node, tensor: Tensor) -> Node:
        # the same tensor may get a new meaning: dropout left out, or a call in place
        node.order = len(self.nodes)
        self.nodes.append(node)
        self.of_tensor[id(tensor)] = node
        if self.limit is not None and len(self.nodes) >= self.limit:
            self.recording = False
        return node


def _name(func: Callable[..., Any]) -> str:
    """The function's name; of a property's getter, the property's."""
    name = getattr(func, "__name__", "unknown")
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return str(name)


def _writes_in_place(name: str, kwargs: Mapping[str, Any]) -> bool:
    in_place = name.endswith("_") and not name.endswith("__")
    return (
        in_place or name in {"__setitem__", "__iadd__", "__imul__"} or bool(kwargs.get("inplace"))
    )


def _keep_value(node: Node | None) -> None:
    """Keep what the tensor holds now, before a call writes over it."""
    if node is not None:
        node.value = node.value.clone()


def _without_dropout(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if name == "dropout":
        return args[0] if args else kwargs["input"]
    if name == "scaled_dot_product_attention":
        args, kwargs = args[:4] + args[5:6], {**kwargs, "dropout_p": 0.0}
    return func(*args, **kwargs)
