"""The feed-forward layer in a traced graph, its activation told from its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from dslm.duals.pointwise import QUICK_GELU_SCALE
from dslm.spec import Activation
from trainer_agent.description.read.linears import LinearCall, linear_call
from trainer_agent.description.read.parts import FeedForwardParts
from trainer_agent.description.read.tolerance import TOLERANCE, difference
from trainer_agent.description.trace.graph import (
    UnrecognisedError,
    ancestors,
    argument,
    is_view_of,
    unscale,
)
from trainer_agent.description.trace.tracer import Node

FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda u: functional.gelu(u, approximate="tanh"),
    "silu": functional.silu,
    "tanh": torch.tanh,
    "identity": lambda u: u,
    "quick_gelu": lambda u: u * torch.sigmoid(QUICK_GELU_SCALE * u),
    "relu_squared": lambda u: torch.relu(u).square(),
}
ROUTING = frozenset({"topk", "one_hot", "index_add", "index_add_", "scatter", "scatter_"})
SAMPLE = 1 << 16
EXPERTS = ("mixture of experts", "the theory here has no routing of tokens to experts")


@dataclass(frozen=True, slots=True)
class FeedForwardCall:
    """One use of a feed-forward layer."""

    input: Node
    parts: FeedForwardParts


def feed_forward_call(down: LinearCall) -> FeedForwardCall:
    """The feed-forward layer whose last map is `down`; raises where it is another thing."""
    hidden = unscale(down.input)
    if hidden.factor != 1.0:
        raise UnrecognisedError(hidden.node, "feed-forward", "a number multiplies its hidden layer")
    calls = _maps_before(hidden.node)
    pieces = [p for call in calls for p in _pieces(hidden.node, call)]
    if len({id(call.input) for call, _ in pieces}) != 1 or len(pieces) > 2:
        raise UnrecognisedError(hidden.node, *_why_not(hidden.node, len(pieces)))
    activation, gate, up = _activation(hidden.node, pieces)
    parts = FeedForwardParts(
        up=up[0].part(up[1]),
        down=down.part(),
        gate=gate[0].part(gate[1]) if gate else None,
        activation=activation,
        p_drop=hidden.p_drop,
    )
    return FeedForwardCall(up[0].input, parts)


Piece = tuple[LinearCall, Node]


def _maps_before(node: Node) -> list[LinearCall]:
    nodes = ancestors(node, lambda n: linear_call(n) is not None)
    return [call for n in nodes if (call := linear_call(n)) is not None]


def _pieces(hidden: Node, call: LinearCall) -> list[Piece]:
    """The map's output, or the two halves a gated layer splits it into."""
    between = ancestors(hidden, lambda n: n is call.output)
    views = [
        n
        for n in between
        if n is not call.output
        and any(s is call.output for s in ancestors(n, lambda m: m is call.output))
        and is_view_of(n, call.output)
    ]
    halves = [n for n in views if n.value.shape[-1] * 2 == call.output.value.shape[-1]]
    return [(call, n) for n in halves] if len(halves) == 2 else [(call, call.output)]


def _activation(hidden: Node, pieces: list[Piece]) -> tuple[Activation, Piece | None, Piece]:
    """Activation, gate (or None) and up, such that the hidden layer's numbers come out."""
    want, *values = (_sample(n.value) for n in (hidden, *(node for _, node in pieces)))
    named = named_activation(hidden)
    candidates = (named,) if named and len(pieces) == 1 else get_args(Activation)
    best: tuple[float, Activation, int] | None = None
    for name in candidates:
        for i, value in enumerate(values):
            other = values[1 - i] if len(values) == 2 else 1.0
            error = difference(FUNCTIONS[name](value) * other, want)
            best = min(best or (error, name, i), (error, name, i))
    if best is None or best[0] > TOLERANCE.get(hidden.value.dtype, 1e-4):
        raise UnrecognisedError(hidden, f"activation {hidden.op}", "not one the theory knows")
    if len(pieces) == 1:
        return best[1], None, pieces[0]
    return best[1], pieces[best[2]], pieces[1 - best[2]]


def _sample(values: Tensor) -> Tensor:
    """Evenly spaced entries: what holds for these holds for a pointwise function."""
    flat = values.flatten()
    return flat[:: 1 + len(flat) // SAMPLE]


def named_activation(node: Node) -> Activation | None:
    """What the torch function says by its name; tells apart what low precision cannot."""
    if node.op == "gelu":
        return "gelu_tanh" if argument(node, 1, "approximate", "none") == "tanh" else "gelu"
    names: dict[str, Activation] = {"relu": "relu", "relu_": "relu", "silu": "silu", "tanh": "tanh"}
    return names.get(node.op)


def pointwise(node: Node) -> Activation | None:
    """The activation that a node's call is, by its name or else by its numbers."""
    named = named_activation(node)
    if named is not None or node.op != "module":
        return named
    return _closest(_sample(node.inputs[0].value), _sample(node.value), node.value.dtype)


def _closest(x: Tensor, want: Tensor, dtype: torch.dtype) -> Activation | None:
    errors = {name: difference(FUNCTIONS[name](x), want) for name in get_args(Activation)}
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] <= TOLERANCE.get(dtype, 1e-4) and best != "identity" else None


def written_activation(node: Node) -> tuple[Activation, Node] | None:
    """(activation, its input) where a node spells one out on the output of a dense map."""
    calls = _maps_before(node)
    if len(calls) != 1 or node.value.is_meta or calls[0].output.value.shape != node.value.shape:
        return None
    source = calls[0].output
    activation = _closest(_sample(source.value), _sample(node.value), node.value.dtype)
    return None if activation is None else (activation, source)


def routes_tokens(node: Node) -> bool:
    """Whether tokens were picked for experts on the way to this node."""
    return any(n.op in ROUTING for n in ancestors(node, lambda _: False))


def _why_not(hidden: Node, maps: int) -> tuple[str, str]:
    if routes_tokens(hidden):
        return EXPERTS
    return "feed-forward", f"{maps} dense maps feed its last one; known are one, or two when gated"
