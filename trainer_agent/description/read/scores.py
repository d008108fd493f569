"""Attention scores in a traced graph: a number times q·k, what squashes it, what is added to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_agent.description.read.einsum import scores_of
from trainer_agent.description.read.linears import TRANSPOSES
from trainer_agent.description.read.tolerance import close
from trainer_agent.description.trace.graph import (
    ADDS,
    RESHAPES,
    SUBTRACTS,
    UnrecognisedError,
    ancestors,
    argument,
    multiple,
    unscale,
)
from trainer_agent.description.trace.tracer import Node

PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "baddbmm", "einsum"})


@dataclass(frozen=True, slots=True)
class Scores:
    """scale * q·k + bias, with c·tanh(scale * q·k / c) instead where there is a `soft_cap` c.

    `bias` is (batch * heads or fewer, ...) shaped as the scores, or None.
    """

    query: Node
    key: Node
    scale: float
    soft_cap: float | None
    bias: Tensor | None


def read_scores(scores: Node, allowed: Tensor) -> Scores:
    """Queries, keys and what is done to their product, checked at the pairs let through."""
    made = [n for n in ancestors(scores, lambda n: n.op in PRODUCTS) if n.op in PRODUCTS]
    summed = scores_of(made[0]) if len(made) == 1 else None
    if len(made) != 1 or (made[0].op == "einsum" and summed is None):
        raise UnrecognisedError(scores, "attention scores", "not one product of queries and keys")
    product = made[0]
    batched = product.op == "baddbmm"
    left, right = (
        (argument(product, 1, "batch1"), argument(product, 2, "batch2"))
        if batched
        else product.inputs[:2]
    )
    if summed is not None:
        query, key = unscale(summed.left), unscale(summed.right)
    else:
        query, key = unscale(left), unscale(right.inputs[0] if right.op in TRANSPOSES else right)
    unit = left.value @ right.value if batched else product.value
    added = _added(scores, product)
    scale, cap = _scale(scores, product, unit, allowed, added)
    factor = query.factor * key.factor
    return Scores(query.node, key.node, scale * factor, cap, added)


def _scale(
    scores: Node, product: Node, unit: Tensor, allowed: Tensor, added: Tensor | None
) -> tuple[float, float | None]:
    """(factor on the product, soft cap or None) that give the scores, less what is added."""
    value = scores.value if added is None else scores.value - added
    squashed = [n for n in ancestors(scores, lambda n: n is product) if n.op == "tanh"]
    if len(squashed) == 1:
        cap = _ratio(value, squashed[0].value, allowed, scores.value)
        inner = squashed[0].inputs[0].value
        inside = _ratio(inner, unit, allowed, inner)
        if cap is not None and inside is not None:
            return cap * inside, cap
    scale = _ratio(value, unit, allowed, scores.value)
    if scale is None:
        raise UnrecognisedError(
            scores, "attention scores", "not a number times q·k, and a bias by position"
        )
    return scale, None


def _ratio(value: Tensor, other: Tensor, allowed: Tensor, unrounded: Tensor) -> float | None:
    """The number that times `other` gives `value` at the pairs let through; None without one.

    `whole` is what low precision rounded: the value with all that was added to it.
    """
    let = allowed.expand(unrounded.shape)
    unit = other.reshape(value.shape)[let].float()
    target = value[let].float()
    ratio = float((unit * target).sum() / unit.square().sum())
    total = unrounded[let]
    added = total.float() - target
    return ratio if close((unit * ratio + added).to(total.dtype), total) else None


def _added(scores: Node, product: Node) -> Tensor | None:
    """What is added to the product on the way to the scores, shaped as they are."""
    node, factor = scores, 1.0
    addends: list[Tensor] = []
    while node is not product:
        times = multiple(node)
        if node.op in RESHAPES:
            node = node.inputs[0]
        elif times is not None:
            factor, node = factor * times[0], times[1]
        else:
            inside = [n for n in node.inputs if product in ancestors(n, lambda n: n is product)]
            if len(inside) != 1:
                return None
            addends += [t.expand(node.value.shape) * factor for t in _terms(node, inside[0])]
            node = inside[0]
    if product.op == "baddbmm":
        beta = float(argument(product, 3, "beta", 1.0))
        addends.append(product.inputs[0].value.expand(product.value.shape) * (beta * factor))
    total = [t.reshape(scores.value.shape).to(scores.value.dtype) for t in addends]
    return torch.stack(total).sum(0) if total else None


def _terms(node: Node, inside: Node) -> list[Tensor]:
    """What a sum adds to `inside`; nothing where a mask only picks, or where it is unknown."""
    others = [a for a in node.args[:2] if isinstance(a, Node) and a is not inside]
    if node.op in ADDS and len(others) == 1:
        return [others[0].value * float(argument(node, 2, "alpha", 1.0))]
    if node.op in SUBTRACTS and len(others) == 1 and node.args[0] is inside:
        return [-others[0].value * float(argument(node, 2, "alpha", 1.0))]
    return []
