"""Questions about a traced graph: what a tensor is a view of, a multiple of, a sum of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer_agent.description.trace.tracer import Node, map_leaves

# Features first to last, excluded, that a slice takes.
Run = tuple[int, int]


class UnrecognisedError(Exception):
    """A part of a block that is not understood: where it is, what it is, why that stops us."""

    def __init__(self, node: Node | str, what: str, why: str) -> None:
        self.where = node if isinstance(node, str) else node.where
        self.what = what
        self.why = why
        super().__init__(f"{self.where}: {what}: {why}")


# neither the numbers nor their order change
RESHAPES = frozenset(
    {"view", "reshape", "contiguous", "to", "type", "type_as", "float", "half", "bfloat16"}
    | {"clone", "detach", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as"}
    | {"_to_copy", "data", "reshape_as", "alias"}
)
# no function, or one that indices are to be spared
CASTS = frozenset({"to", "type", "type_as", "float", "half", "bfloat16", "_to_copy", "alias"})
# numbers are picked, moved or repeated, never changed
VIEWS = RESHAPES | frozenset(
    {"transpose", "permute", "swapaxes", "swapdims", "movedim", "t", "T", "mT", "adjoint"}
    | {"expand", "expand_as", "repeat", "repeat_interleave", "broadcast_to", "split", "chunk"}
    | {"unbind", "tensor_split", "narrow", "select", "__getitem__", "split_with_sizes"}
)
SUBTRACTS = frozenset({"sub", "sub_", "__sub__", "__isub__", "subtract"})
ADDS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
SCALES = frozenset({"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"})
DIVIDES = frozenset({"div", "div_", "__truediv__", "true_divide", "__itruediv__"})


def strip(node: Node, ops: Iterable[str] = RESHAPES) -> Node:
    """The node this one only reshapes (or views, with `ops` so)."""
    while node.op in ops or _joins_nothing(node):
        node = _viewed(node)
    return node


def _viewed(node: Node) -> Node:
    return max(node.inputs, key=lambda n: n.value.numel()) if node.op == "cat" else node.inputs[0]


def _joins_nothing(node: Node) -> bool:
    """Whether a cat adds only empty tensors, as a fresh key-value cache does."""
    return node.op == "cat" and sum(n.value.numel() > 0 for n in node.inputs) == 1


@dataclass(frozen=True, slots=True)
class Scaled:
    """factor * dropout(node)."""

    factor: float
    p_drop: float
    node: Node


def unscale(node: Node) -> Scaled:
    """Take reshapes, dropout and multiplication by numbers off a node."""
    factor, p_drop = 1.0, 0.0
    while True:
        node = strip(node)
        times = _kept_sequences(node) or multiple(node)
        if times is not None:
            factor, node = factor * times[0], times[1]
        elif node.op == "dropout":
            p = dropout_probability(node)
            p_drop, node = p + p_drop - p * p_drop, node.inputs[0]
        else:
            return Scaled(factor, p_drop, node)


def _kept_sequences(node: Node) -> tuple[float, Node] | None:
    """(1/√kept, node) where whole sequences are dropped with equal chance (stochastic depth).

    The others are divided by the share that is kept, so that what remains has 1/kept of the
    energy, within a token and between two tokens alike.
    """
    if node.op not in SCALES or len(node.args) != 2:
        return None
    for mask, branch in (node.args, node.args[::-1]):
        if not isinstance(mask, Node) or not isinstance(branch, Node) or mask.op == "parameter":
            continue
        shape, kept = mask.value.shape, mask.value[mask.value != 0]
        per_sequence = len(shape) == branch.value.ndim > 1 and shape.numel() == shape[0]
        if not per_sequence or shape[0] != branch.value.shape[0] or not _is_even(kept):
            continue
        scale, inner = float(kept[0]) if len(kept) else 1.0, branch
        divided = multiple(branch) if branch.op in DIVIDES else None
        if divided is not None:
            scale, inner = scale * divided[0], divided[1]
        return (scale**0.5, inner) if scale >= 1 else None
    return None


def _is_even(kept: Tensor) -> bool:
    return len(kept) == 0 or bool((kept == kept[0]).all())


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """An argument given by position or by name."""
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(name, default)


def dropout_probability(node: Node) -> float:
    """The probability in effect: 0 in evaluation mode."""
    return float(argument(node, 1, "p", 0.5)) if argument(node, 2, "training", True) else 0.0


def multiple(node: Node) -> tuple[float, Node] | None:
    """(number, node) where a node is a number times another, else None."""
    if node.op in SCALES and len(node.args) == 2:
        a, b = node.args
        for number, other in ((_number(a), b), (_number(b), a)):
            if number is not None and isinstance(other, Node):
                return number, other
    if node.op in DIVIDES and len(node.args) == 2:
        number = _number(node.args[1])
        return (1 / number, node.args[0]) if number else None
    return None


def _number(value: Any) -> float | None:
    """The value of a number or a one-element tensor, else None."""
    if isinstance(value, Node):
        is_scalar = value.value.numel() == 1 and value.op in {"constant", "parameter"}
        return float(value.value) if is_scalar else None
    return float(value) if isinstance(value, (int, float)) else None


def terms(node: Node) -> tuple[Scaled, Scaled] | None:
    """The two addends of a sum, with their factors; None where the node is no sum."""
    if node.op in ADDS and len(node.args) >= 2:
        alpha = float(argument(node, 2, "alpha", 1.0))
        return _two_terms(node.args[0], 1.0, node.args[1], alpha)
    if node.op == "lerp":
        weight = _number(argument(node, 2, "weight"))
        if weight is not None:
            return _two_terms(node.args[0], 1 - weight, node.args[1], weight)
    return None


def _two_terms(a: Any, a_factor: float, b: Any, b_factor: float) -> tuple[Scaled, Scaled] | None:
    if not isinstance(a, Node) or not isinstance(b, Node):
        return None
    first, second = unscale(a), unscale(b)
    return (
        Scaled(a_factor * first.factor, first.p_drop, first.node),
        Scaled(b_factor * second.factor, second.p_drop, second.node),
    )


def ancestors(node: Node, stop: Callable[[Node], bool]) -> list[Node]:
    """The node and all it was computed from, not looking past where `stop` holds."""
    nodes: dict[int, Node] = {}
    pending = [node]
    while pending:
        current = pending.pop()
        if id(current) not in nodes:
            nodes[id(current)] = current
            pending += [] if stop(current) else current.inputs
    return sorted(nodes.values(), key=lambda n: n.order)


def is_view_of(node: Node, source: Node) -> bool:
    """Whether a node only picks and moves numbers of `source`."""
    while node is not source:
        if node.op not in VIEWS and not _joins_nothing(node):
            return False
        node = _viewed(node)
    return True


def feature_runs(node: Node, source: Node) -> tuple[Run, ...]:
    """Which last-dimension features of `source` its view `node` takes, as half-open runs."""
    features = torch.arange(source.value.shape[-1], device=source.value.device)
    index = replay_views(node, source, features.expand(source.value.shape))
    # Along the axes that views have left expanded all is alike.
    index = index[tuple(slice(1 if stride == 0 else None) for stride in index.stride())]
    taken = torch.zeros_like(features, dtype=torch.bool)
    taken[index.flatten()] = True
    return _runs(taken.nonzero().flatten().tolist())


def replay_views(node: Node, source: Node, value: Tensor) -> Tensor:
    """Apply to `value`, shaped like `source`, the views that lead from there to `node`."""
    if node is source:
        return value
    if node.op in CASTS:
        return replay_views(node.inputs[0], source, value)  # integers must stay integers
    viewed = _viewed(node)
    inner = replay_views(viewed, source, value)

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, Node):
            return leaf
        return inner if leaf is viewed else leaf.value.to(inner.dtype)

    assert node.func is not None
    result = node.func(*map_leaves(node.args, fill), **map_leaves(dict(node.kwargs), fill))
    picked = result if node.select is None else result[node.select]
    assert isinstance(picked, Tensor)
    return picked


def _runs(features: list[int]) -> tuple[Run, ...]:
    runs: list[Run] = []
    for feature in features:
        if runs and runs[-1][1] == feature:
            runs[-1] = (runs[-1][0], feature + 1)
        else:
            runs.append((feature, feature + 1))
    return tuple(runs)
