"""Attention's two products written as einsum: whichever way the axes are named and ordered."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer_agent.description.trace.tracer import Node


@dataclass(frozen=True, slots=True)
class Product:
    """A sum over one axis of two tensors, `left` (batch..., rows, x) and `right` (batch..., y, z).

    Of scores `right` is (batch..., columns, features); of mixed values (batch..., keys, features).
    """

    left: Node
    right: Node


def scores_of(node: Node) -> Product | None:
    """Queries and keys of ``b h i d, b h j d -> b h i j`` in any order; None for another einsum."""
    axes = _axes(node)
    if axes is None:
        return None
    left, right, result = axes
    summed, batch = _summed(axes), _shared(axes)
    rows, columns = (_only(side, result, other) for side, other in ((left, right), (right, left)))
    if None in (summed, rows, columns) or result != f"{batch}{rows}{columns}":
        return None
    return _product(node, (left, f"{batch}{rows}{summed}"), (right, f"{batch}{columns}{summed}"))


def mixed_of(node: Node) -> Product | None:
    """Weights and values of ``b h i j, b h j d -> b h i d`` in any order; None for another."""
    axes = _axes(node)
    if axes is None:
        return None
    left, right, result = axes
    summed, batch = _summed(axes), _shared(axes)
    rows, features = (_only(side, result, other) for side, other in ((left, right), (right, left)))
    if None in (summed, rows, features):
        return None
    return _product(node, (left, left), (right, f"{batch}{summed}{features}"))


def _axes(node: Node) -> tuple[str, str, str] | None:
    equation = node.args[0] if node.op == "einsum" and node.args else None
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return None
    operands, result = equation.replace(" ", "").split("->")
    names = operands.split(",")
    is_plain = len(names) == len(node.inputs) == 2
    if not is_plain or any(len(set(name)) < len(name) for name in (*names, result)):
        return None
    return names[0], names[1], result


def _summed(axes: tuple[str, str, str]) -> str | None:
    left, right, result = axes
    summed = [axis for axis in left if axis in right and axis not in result]
    return summed[0] if len(summed) == 1 else None


def _shared(axes: tuple[str, str, str]) -> str:
    left, right, result = axes
    return "".join(axis for axis in result if axis in left and axis in right)


def _only(side: str, result: str, other: str) -> str | None:
    own = [axis for axis in side if axis in result and axis not in other]
    return own[0] if len(own) == 1 else None


def _product(node: Node, left: tuple[str, str], right: tuple[str, str]) -> Product | None:
    orders = [before for before, after in (left, right) if sorted(before) != sorted(after)]
    if orders:
        return None
    first, second = node.inputs
    return Product(_turned(first, *left), _turned(second, *right))


def _turned(node: Node, before: str, after: str) -> Node:
    """The node with its axes in another order, as a view of it."""
    if before == after:
        return node
    order = [before.index(axis) for axis in after]
    value = node.value.permute(order)
    return Node("permute", value, node.where, node.order, (node, order), func=torch.permute)
