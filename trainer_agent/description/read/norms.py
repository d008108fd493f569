"""LayerNorm and RMSNorm in a traced graph, whatever the class that computes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer_agent.description.read.parts import NormPart
from trainer_agent.description.read.tolerance import close, difference
from trainer_agent.description.trace.graph import ADDS, SCALES, argument, strip
from trainer_agent.description.trace.tracer import Node
from trainer_agent.model.dtensor import local

KINDS: tuple[Literal["rmsnorm", "layernorm"], ...] = ("rmsnorm", "layernorm")
EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_epsilon")


@dataclass(frozen=True, slots=True)
class NormCall:
    """One use of a norm."""

    input: Node
    part: NormPart


def norm_call(node: Node, model: nn.Module) -> NormCall | None:
    """The norm a node is the output of, else None."""
    if node.op in {"layer_norm", "rms_norm"}:
        return _functional(node, model)
    if node.op == "module":
        return _module(node, model)
    return _with_vector(node, model)


def _with_vector(node: Node, model: nn.Module) -> NormCall | None:
    """A norm without a gain, or a bias, that the code multiplies or shifts by a vector itself."""
    if node.op not in SCALES | ADDS or len(node.args) != 2:
        return None
    for vector, normed in (node.args, node.args[::-1]):
        if not isinstance(vector, Node) or not isinstance(normed, Node) or vector.value.ndim != 1:
            continue
        is_own = vector.op in {"parameter", "constant"} or vector.op in ADDS
        call = norm_call(strip(normed), model) if is_own else None
        gain = None if call is None else _gain(vector, model)
        if gain is None or call is None:
            continue
        if node.op in SCALES and call.part.weight is None and call.part.bias is None:
            return replace(call, part=replace(call.part, weight=gain[0], gain_offset=gain[1]))
        if node.op in ADDS and call.part.bias is None and gain[1] == 0.0:
            return replace(call, part=replace(call.part, bias=gain[0]))
    return None


def norm_of_heads(node: Node, model: nn.Module) -> NormCall | None:
    """Norms of single heads, each with gains of its own, joined again; else None."""
    if node.op != "cat" or len(node.inputs) < 2:
        return None
    calls = [norm_call(head, model) for head in node.inputs]
    parts = [call.part for call in calls if call is not None]
    sources = [source for call in calls if call is not None for source in call.input.inputs[:1]]
    if len(parts) < len(calls) or len({id(source) for source in sources}) != 1:
        return None
    first, source = parts[0], sources[0]
    alike = all(replace(part, weight=first.weight) == first for part in parts)
    if not alike or first.bias is not None or source.value.shape != node.value.shape:
        return None
    weights = [part.weight for part in parts[1:] if part.weight is not None]
    return NormCall(source, replace(first, weights_of_heads=tuple(weights)))


def _functional(node: Node, model: nn.Module) -> NormCall | None:
    x = strip(node.args[0])
    if tuple(argument(node, 1, "normalized_shape")) != tuple(x.value.shape[-1:]):
        return None
    weight = argument(node, 2, "weight")
    layer = node.op == "layer_norm"
    bias = argument(node, 3, "bias") if layer else None
    default = 1e-5 if layer else float(torch.finfo(x.value.dtype).eps)
    eps = argument(node, 4 if layer else 3, "eps")
    gain = _gain(weight, model)
    if gain is None or (bias is not None and bias.op != "parameter"):
        return None
    part = NormPart(
        "layernorm" if layer else "rmsnorm",
        gain[0],
        bias.where if bias is not None else None,
        default if eps is None else float(eps),
        gain[1],
    )
    return NormCall(x, part)


def _gain(weight: Node | None, model: nn.Module) -> tuple[str | None, float] | None:
    """(parameter, number added to it) that make a gain, (None, 0) without one; else None."""
    if weight is None:
        return None, 0.0
    if weight.op == "parameter":
        return weight.where, 0.0
    if weight.op in ADDS and isinstance(weight.args[0], Node):  # as Nemotron has it
        number = weight.args[1]
        is_plain = weight.args[0].op == "parameter" and isinstance(number, int | float)
        return (weight.args[0].where, float(number)) if is_plain else None
    for name, parameter in _own_parameters(weight.where, model):
        # outside of blocks what is not made of the stream is no part of the graph
        values = local(parameter)
        if values.shape == weight.value.shape and torch.equal(values + 1, weight.value):
            return f"{weight.where}.{name}", 1.0
    return None


def _own_parameters(path: str, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    try:
        return list(model.get_submodule(path).named_parameters(recurse=False))
    except AttributeError:  # a layer that is no module of its own
        return []


def _module(node: Node, model: nn.Module) -> NormCall | None:
    """Tell what a home-made norm module computes by computing it."""
    vectors, shape = node.vectors, node.value.shape
    if len(vectors) > 2 or any(v.shape != shape[len(shape) - v.ndim :] for v in vectors.values()):
        return None
    names = [name for name in vectors if "bias" not in name]
    bias = next((name for name in vectors if "bias" in name), None)
    if len(names) > 1:
        return None
    weight = names[0] if names else None
    part = _matching(node, model.get_submodule(node.where), weight, bias)
    return None if part is None else NormCall(strip(node.inputs[0]), part)


def _matching(
    node: Node, module: nn.Module, weight: str | None, bias: str | None
) -> NormPart | None:
    candidates = [
        NormPart(
            kind, weight and f"{node.where}.{weight}", bias and f"{node.where}.{bias}", *numbers
        )
        for kind in KINDS
        for numbers in product(_possible_eps(module), (0.0, 1.0) if weight else (0.0,))
    ]
    x, want = node.inputs[0].value, node.value
    gain = node.vectors[weight] if weight else None
    shift = node.vectors[bias] if bias else None
    results = [_compute(part, x, gain, shift) for part in candidates]
    best = min(range(len(results)), key=lambda i: difference(results[i], want))
    return candidates[best] if close(results[best], want) else None


def _possible_eps(module: Any) -> list[float]:
    attributes = [getattr(module, name, None) for name in EPS_NAMES]
    return [float(e) for e in attributes if isinstance(e, (int, float))] or [1e-5, 1e-6, 1e-8]


def _compute(part: NormPart, x: Tensor, gain: Tensor | None, shift: Tensor | None) -> Tensor:
    x, shape, eps = x.float(), x.shape[-1:], part.eps
    unit = (
        functional.layer_norm(x, shape, eps=eps)
        if part.kind == "layernorm"
        else x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    )
    scaled = unit if gain is None else unit * (gain.float() + part.gain_offset)
    return scaled if shift is None else scaled + shift.float()
