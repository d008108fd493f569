"""A mixture of experts in a traced graph, told by computing it anew for a few tokens.

How tokens are sent to experts is written in many ways: a loop with `index_add`, grouped products,
one-hot masks. So no call between router and result is followed. What stands at the ends is enough:
the router's scores, the experts' matrices, and the sum that comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn

from dslm.spec import Gate
from trainer_agent.description.read.expert_maps import maps_of
from trainer_agent.description.read.feed_forward import (
    EXPERTS,
    FeedForwardCall,
    feed_forward_call,
    routes_tokens,
)
from trainer_agent.description.read.linears import LinearCall, linear_call
from trainer_agent.description.read.parts import ExpertParts, FeedForwardParts, LinearPart
from trainer_agent.description.read.tolerance import TOLERANCE, difference
from trainer_agent.description.trace.graph import (
    ADDS,
    SCALES,
    UnrecognisedError,
    ancestors,
    strip,
    terms,
    unscale,
)
from trainer_agent.description.trace.tracer import Node

SAMPLE = 6  # tokens that the mixture is computed for anew
TOP = "topk"
OTHER = (
    EXPERTS[0],
    "its output is not the sum of its chosen experts' outputs times a softmax or sigmoid of the "
    "router's scores, as the theory knows it",
)


@dataclass(frozen=True, slots=True)
class _Router:
    """The router's map, the experts chosen a token, and the groups that they were chosen from."""

    call: LinearCall
    top_k: int
    groups: int
    top_groups: int


def experts_call(node: Node, model: nn.Module) -> FeedForwardCall:
    """The routed experts whose sum is `node`, and what all tokens get beside; raises otherwise."""
    routed, beside = _split(node)
    router = _router(routed)
    source = router.call.input
    shared, shared_gate = _shared(beside, source) if beside else (None, None)
    x, want = _rows(source), _rows(routed)
    at = torch.linspace(0, len(x) - 1, min(SAMPLE, len(x)), device=x.device).long()
    scores = _rows(router.call.output)[at].float()
    chosen = _chosen(scores, router)
    for maps in maps_of(routed, router.call, model):
        for outputs, layer in maps.outputs(x[at], chosen):
            gated = _gates(scores, chosen, outputs, want[at], routed.value.dtype)
            if gated is not None:
                experts = ExpertParts(
                    router=router.call.part(),
                    top_k=router.top_k,
                    gate=gated[0],
                    normalised=gated[1],
                    scale=gated[2],
                    groups=router.groups,
                    top_groups=router.top_groups,
                    shared=shared,
                    shared_gate=shared_gate,
                )
                return FeedForwardCall(source, replace(layer, experts=experts))
    raise UnrecognisedError(node, *OTHER)


def _rows(node: Node) -> Tensor:
    return node.value.reshape(-1, node.value.shape[-1])


def _split(node: Node) -> tuple[Node, Node | None]:
    """The experts' sum, and the branch that is added to it for every token."""
    node = strip(node)
    both = terms(node) if node.op in ADDS else None
    if both is None:
        return node, None
    routed = [term.node for term in both if routes_tokens(term.node)]
    others = [term.node for term in both if not routes_tokens(term.node)]
    plain = all(term.factor == 1.0 and not term.p_drop for term in both)
    if len(routed) != 1 or not plain:
        return node, None
    return strip(routed[0]), others[0]


def _router(routed: Node) -> _Router:
    """The map whose outputs decide; the last choice is that of experts, those before of groups."""
    choices = [n for n in ancestors(routed, lambda _: False) if n.op == TOP and n.select in {0, 1}]
    if not choices:
        raise UnrecognisedError(routed, *OTHER)
    last = max(choices, key=lambda n: n.order)
    calls = [c for n in ancestors(last, _is_map) if (c := linear_call(n)) is not None]
    if len(calls) != 1:
        raise UnrecognisedError(routed, *OTHER)
    before = sorted({n.order: n for n in choices if n.order < last.order - 1}.values(), key=_order)
    top_k = int(last.value.shape[-1])
    inside = [n for n in before if any(a is n for a in ancestors(last, lambda _: False))]
    if not inside:
        return _Router(calls[0], top_k, 1, 1)
    # (tokens, groups, best of each), then (tokens, best groups)
    grouped = next((n for n in inside if n.value.ndim == 3), None)
    n_groups = int(inside[-1].inputs[0].value.shape[-1])
    if grouped is not None and grouped.value.shape[-2] != n_groups:
        raise UnrecognisedError(routed, *OTHER)
    return _Router(calls[0], top_k, n_groups, int(inside[-1].value.shape[-1]))


def _order(node: Node) -> int:
    return node.order


def _is_map(node: Node) -> bool:
    return linear_call(node) is not None


def _chosen(scores: Tensor, router: _Router) -> Tensor:
    """(tokens, top_k) experts of each token, as the theory takes them to be chosen."""
    if router.top_groups < router.groups:
        n, width = scores.shape
        grouped = scores.sigmoid().reshape(n, router.groups, -1)
        best = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
        allowed = torch.zeros_like(best).scatter(1, best.topk(router.top_groups).indices, 1.0)
        kept = torch.where(allowed.unsqueeze(-1) > 0, grouped, -1.0).reshape(n, width)
        return kept.topk(router.top_k).indices
    return scores.topk(router.top_k).indices


def _gates(
    scores: Tensor, chosen: Tensor, outputs: Tensor, want: Tensor, dtype: torch.dtype
) -> tuple[Gate, bool, float] | None:
    """(gate, normalised, scale) by which the experts' outputs (tokens, top_k, d) add up."""
    for gate, normalised in product(("softmax", "sigmoid"), (True, False)):
        share = scores.softmax(-1) if gate == "softmax" else scores.sigmoid()
        weights = share.gather(1, chosen)
        if normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        total = torch.einsum("tk,tkd->td", weights, outputs)
        scale = float((total * want.float()).sum() / total.square().sum().clamp_min(1e-30))
        if difference(total * scale, want.float()) <= _allowed(dtype):
            nearest = round(scale, 3)
            scale = nearest if abs(scale - nearest) <= _allowed(dtype) * scale else scale
            return ("softmax" if gate == "softmax" else "sigmoid"), normalised, scale
    return None


def _allowed(dtype: torch.dtype) -> float:
    return 2 * TOLERANCE.get(dtype, 1e-4)


def _shared(node: Node, source: Node) -> tuple[FeedForwardParts, LinearPart | None]:
    """The layer that every token goes through, and the map whose sigmoid multiplies it, if any."""
    bare = unscale(node)
    gate: LinearPart | None = None
    inner = bare.node
    if inner.op in SCALES and linear_call(inner) is None:
        for opening, branch in _ordered(inner):
            opened = strip(opening)
            call = linear_call(strip(opened.inputs[0])) if opened.op == "sigmoid" else None
            if call is not None and call.d_out == 1:
                gate, inner = call.part(), strip(branch)
    call = linear_call(inner)
    if call is None or bare.factor != 1.0 or bare.p_drop:
        raise UnrecognisedError(node, EXPERTS[0], "what is added to the experts is no shared one")
    layer = feed_forward_call(call)
    if strip(layer.input) is not strip(source):
        raise UnrecognisedError(
            node, EXPERTS[0], "shared and routed experts read different streams"
        )
    return layer.parts, gate


def _ordered(node: Node) -> Iterator[tuple[Node, Node]]:
    a, b = node.args[:2]
    if isinstance(a, Node) and isinstance(b, Node):
        yield from ((a, b), (b, a))
