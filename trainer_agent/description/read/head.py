"""The head: what happens between a stack's last block and the loss, in a traced graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer_agent.description.read.feed_forward import pointwise, written_activation
from trainer_agent.description.read.linears import linear_call
from trainer_agent.description.read.norms import norm_call
from trainer_agent.description.read.parts import HeadLayerPart, HeadPart, LabelsPart, LinearPart
from trainer_agent.description.trace.graph import (
    ADDS,
    VIEWS,
    UnrecognisedError,
    argument,
    replay_views,
    strip,
    unscale,
)
from trainer_agent.description.trace.tracer import Node

LOSS = "cross_entropy"


@dataclass(frozen=True, slots=True)
class Embedded:
    """What an embedding whose rows may be the head's weights was given: its name and ids."""

    weight: str
    ids: Tensor


@dataclass(slots=True)
class _Chain:
    """What was found from the logits down: the layers and the logits' map."""

    layers: list[HeadLayerPart]
    output: LinearPart | None = None
    scale: float = 1.0
    soft_cap: float | None = None
    bare: bool = False  # no layer or bias seen between here and the logits' map


def head_of(
    nodes: list[Node], stream: Node, output: Any, model: nn.Module, embeddings: list[Embedded]
) -> HeadPart | None:
    """The head between `stream`, what a stack put out, and the loss in the model's `output`.

    None where the graph holds no cross-entropy. Raises UnrecognisedError where it holds one that
    is computed in another way than known here.
    """
    losses = [n for n in nodes if n.op == LOSS]
    if not losses:
        return None
    if len(losses) > 1:
        raise UnrecognisedError(losses[1], "loss", "more than one cross-entropy")
    entropy = losses[0]
    logits = argument(entropy, 0, "input")
    chain = _Chain([])
    rows = _follow(logits, stream, model, chain, classes=1 if logits.value.ndim > 1 else 0)
    if chain.output is None:
        raise UnrecognisedError(entropy, "loss", "no dense map makes the logits")
    labels, weight = _labels(entropy, rows, stream.value), _weight(entropy, output, nodes)
    dense = any(x.linear or x.activation != "identity" for x in chain.layers)
    tied = next((k for k in embeddings if k.weight == chain.output.weight and not dense), None)
    ids = None if tied is None else _ids(tied, labels)
    return HeadPart(
        layers=tuple(chain.layers),
        output=chain.output,
        labels=LabelsPart(weight, labels, ids),
        scale=chain.scale,
        soft_cap=chain.soft_cap,
    )


def _follow(node: Node, stream: Node, model: nn.Module, chain: _Chain, classes: int = -1) -> Tensor:
    """Walk from a node down to the stream; return which token each of its rows is.

    `classes` is the dimension that runs over features. Layers are noted from below, so that
    `chain.layers` ends up in the order they act.
    """
    base = strip(node, VIEWS)
    if base is not node:
        rows = _follow(base, stream, model, chain)
        wide = rows.unsqueeze(-1).expand(base.value.shape)
        return replay_views(node, base, wide).select(classes, 0)
    if node is stream:
        shape = node.value.shape
        return torch.arange(shape[0] * shape[1], device=node.value.device).reshape(shape[:2])
    return _through(node, stream, model, chain)


def _through(node: Node, stream: Node, model: nn.Module, chain: _Chain) -> Tensor:
    """One step that acts on each token alone."""
    call = linear_call(node)
    if call is not None and chain.output is None:
        chain.output = call.part()
        chain.bare = call.bias is None
        return _follow(call.input, stream, model, chain)
    if chain.output is None:
        return _on_logits(node, stream, model, chain)
    if call is not None:
        return _noted(call.input, HeadLayerPart(linear=call.part()), stream, model, chain)
    return _between(node, stream, model, chain)


def _on_logits(node: Node, stream: Node, model: nn.Module, chain: _Chain) -> Tensor:
    """A factor on the logits, a cap c·tanh(z / c), or a bias that is still zero (BART's)."""
    outer = unscale(node)
    sum_of = _without_zeros(node)
    if sum_of is not None:
        return _follow(sum_of, stream, model, chain)
    if outer.node is node or outer.p_drop:
        raise UnrecognisedError(node, f"{node.op} on logits", "not a known head")
    inner = strip(outer.node)
    if inner.op != "tanh":
        chain.scale *= outer.factor
        return _follow(inner, stream, model, chain)
    within = unscale(inner.inputs[0])
    if (
        chain.soft_cap is not None
        or chain.scale != 1
        or abs(within.factor * outer.factor - 1) > 1e-6
    ):
        raise UnrecognisedError(inner, "tanh on logits", "not a cap c·tanh(z / c)")
    chain.soft_cap = outer.factor
    return _follow(within.node, stream, model, chain)


def _without_zeros(node: Node) -> Node | None:
    """What a node adds only zeros to, else None."""
    addends = [a for a in node.args if isinstance(a, Node)] if node.op in ADDS else []
    nonzero = [a for a in addends if strip(a).op != "constant" or bool(a.value.any())]
    return nonzero[0] if len(addends) == 2 and len(nonzero) == 1 else None


def _between(node: Node, stream: Node, model: nn.Module, chain: _Chain) -> Tensor:
    """A norm, an activation or dropout before the logits."""
    normed = norm_call(node, model)
    if normed is not None:
        return _noted(normed.input, HeadLayerPart(norm=normed.part), stream, model, chain)
    activation = pointwise(node)
    if activation is not None:
        layer = HeadLayerPart(activation=activation)
        return _noted(node.inputs[0], layer, stream, model, chain)
    scaled = unscale(node)
    written = written_activation(node) if scaled.node is node else None
    if written is not None:
        layer = HeadLayerPart(activation=written[0])
        return _noted(written[1], layer, stream, model, chain)
    if scaled.factor != 1.0 and chain.bare:  # T5's: a factor right below the logits' map
        chain.scale *= scaled.factor
    elif scaled.node is node or scaled.factor != 1.0:
        raise UnrecognisedError(node, f"{node.op} before the logits", "not a known head")
    return _noted(scaled.node, HeadLayerPart(p_drop=scaled.p_drop), stream, model, chain)


def _noted(
    below: Node, layer: HeadLayerPart, stream: Node, model: nn.Module, chain: _Chain
) -> Tensor:
    chain.bare = False
    rows = _follow(below, stream, model, chain)
    chain.layers.append(layer)
    return rows


def _labels(entropy: Node, rows: Tensor, stream: Tensor) -> Tensor:
    """Each token's class, -1 for none; UnrecognisedError for what is no plain class label."""
    target = argument(entropy, 1, "target")
    smoothing = float(argument(entropy, 7, "label_smoothing", 0.0))
    weighted = argument(entropy, 2, "weight") is not None
    plain = isinstance(target, Node) and not target.value.is_floating_point()
    if smoothing or weighted or not plain:
        raise UnrecognisedError(entropy, "loss", "not plain class labels")
    classes = target.value.flatten()
    ignored = int(argument(entropy, 4, "ignore_index", -100))
    token = rows.flatten().to(classes.device)
    counted = classes != ignored
    if token.numel() != classes.numel() or len(set(token[counted].tolist())) != int(counted.sum()):
        raise UnrecognisedError(entropy, "loss", "a token has more than one label")
    labels = torch.full((stream.shape[0] * stream.shape[1],), -1, device=classes.device)
    labels[token[counted]] = classes[counted].to(labels.dtype)
    return labels.reshape(stream.shape[:2])


def _weight(entropy: Node, output: Any, nodes: list[Node]) -> float:
    """dLoss/d(one token's cross-entropy), from how it is reduced and what becomes of it."""
    reduction = argument(entropy, 6, "reduction", "mean")
    target, ignored = argument(entropy, 1, "target"), argument(entropy, 4, "ignore_index", -100)
    ends = scalars_of(output)
    losses = [unscale(node) for node in nodes if any(map(node.is_of, ends))]
    scaled = [loss for loss in losses if loss.node is entropy and not loss.p_drop]
    if len(scaled) != 1 or reduction == "none":
        raise UnrecognisedError(entropy, "loss", "more than a cross-entropy times a number")
    n = int((target.value != ignored).sum()) if reduction == "mean" else 1
    return scaled[0].factor / max(n, 1)


def _ids(tied: Embedded, labels: Tensor) -> Tensor:
    if tied.ids.shape != labels.shape:
        raise UnrecognisedError(tied.weight, "tied embedding", "its ids are not the stack's tokens")
    return tied.ids.to(labels.device)


def scalars_of(output: Any) -> list[Tensor]:
    """The scalars in a model's output."""
    items = output.values() if isinstance(output, Mapping) else output
    items = items if isinstance(output, (tuple, list, Mapping)) else (output,)
    named = getattr(output, "loss", None)
    items = (named,) if isinstance(named, Tensor) else tuple(items)
    return [v for v in items if isinstance(v, Tensor) and v.numel() == 1]
