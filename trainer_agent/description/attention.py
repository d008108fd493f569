"""Self-attention in a traced graph: fused or written out, checked against its numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .graph import (
    VIEWS,
    UnrecognisedError,
    ancestors,
    argument,
    dropout_probability,
    strip,
    unscale,
)
from .linears import TRANSPOSES, LinearCall
from .masks import is_causal, let_through
from .numbers import close
from .packed_attention import OP, packed_input, packed_parts
from .parts import AttentionParts, LinearPart
from .projection import Projection, projection
from .trace import Node

PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "baddbmm", "einsum"})


@dataclass(frozen=True, slots=True)
class Core:
    """softmax(score_scale * q·k + mask) @ v: the part between the projections."""

    query: Node
    key: Node
    value: Node
    causal: bool
    score_scale: float
    p_drop: float


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One use of self-attention, with its projections."""

    input: Node
    parts: AttentionParts


def attention_call(output: LinearCall, model: nn.Module) -> AttentionCall | None:
    """Attention whose output projection is `output`; None where something else feeds it."""
    mixed = strip(output.input, VIEWS)
    if mixed.op == OP:
        return AttentionCall(packed_input(mixed), packed_parts(mixed, output.part()))
    core = _core(mixed)
    if core is None:
        return None
    query, key, value = (projection(n, model) for n in (core.query, core.key, core.value))
    _check(core, query, key, value)
    return AttentionCall(query.input, _parts(core, query, key, value, output.part()))


def _check(core: Core, query: Projection, key: Projection, value: Projection) -> None:
    """Raise where the theory has no word for what is done to queries, keys and values."""
    if not (query.input is key.input is value.input):
        raise UnrecognisedError(
            core.query, "cross-attention", "queries and keys are read from different streams"
        )
    if query.rotary != key.rotary:
        raise UnrecognisedError(core.query, "rotary embedding", "queries and keys turn differently")
    if value.rotary is not None:
        raise UnrecognisedError(core.value, "rotary embedding", "values are rotated")
    if value.norm is not None or value.factor != 1.0:
        raise UnrecognisedError(core.value, "values", "a norm or a number changes them")
    if query.norm is not None or key.norm is not None:
        raise UnrecognisedError(
            core.query, "qk-norm", "the theory here has no norm on queries and keys"
        )


def _parts(
    core: Core, query: Projection, key: Projection, value: Projection, output: LinearPart
) -> AttentionParts:
    n_heads, d_head = _heads(core.query)
    same_width = value.part.d_out == key.part.d_out and output.d_in == query.part.d_out
    if n_heads * d_head != query.part.d_out or key.part.d_out % d_head or not same_width:
        raise UnrecognisedError(
            core.query, "attention heads", f"{n_heads} heads of {d_head} do not fill the projection"
        )
    return AttentionParts(
        query=query.part,
        key=key.part,
        value=value.part,
        output=output,
        n_heads=n_heads,
        n_kv_heads=key.part.d_out // d_head,
        d_head=d_head,
        causal=core.causal,
        score_scale=core.score_scale * query.factor * key.factor,
        rotary=query.rotary,
        p_drop=core.p_drop,
    )


def _heads(query: Node) -> tuple[int, int]:
    shape = query.value.shape
    return (shape[-3] if len(shape) == 4 else 1), shape[-1]


def _core(node: Node) -> Core | None:
    if node.op == "scaled_dot_product_attention":
        return _fused_core(node)
    if node.op in PRODUCTS:
        return _written_core(node)
    return None


def _fused_core(node: Node) -> Core:
    query, key, value = (argument(node, i, n) for i, n in enumerate(("query", "key", "value")))
    mask = argument(node, 3, "attn_mask")
    flagged = bool(argument(node, 5, "is_causal", False))
    scale = node.kwargs.get("scale")
    return Core(
        query=query,
        key=key,
        value=value,
        causal=flagged if mask is None else is_causal(node, let_through(node, mask.value)),
        score_scale=float(scale) if scale is not None else query.value.shape[-1] ** -0.5,
        p_drop=float(argument(node, 4, "dropout_p", 0.0)),
    )


def _written_core(node: Node) -> Core | None:
    """Attention spelled out as matmul, softmax, matmul."""
    if node.op == "einsum" or len(node.inputs) != 2:
        return None
    weights, value = node.inputs
    p_drop = 0.0
    while weights.op != "softmax":
        if weights.op == "dropout":
            p_drop = dropout_probability(weights)
        elif weights.op not in VIEWS:
            return None
        weights = weights.inputs[0]
    allowed = weights.value > 0
    query, key, scale = _scores(weights.inputs[0], allowed)
    return Core(query, key, value, is_causal(node, allowed), scale, p_drop)


def _scores(scores: Node, allowed: Tensor) -> tuple[Node, Node, float]:
    """Queries, keys and the factor on their product, checked where the mask lets pairs through."""
    made = [n for n in ancestors(scores, lambda n: n.op in PRODUCTS) if n.op in PRODUCTS]
    if len(made) != 1 or made[0].op in {"einsum", "baddbmm"} or len(made[0].inputs) != 2:
        raise UnrecognisedError(scores, "attention scores", "not one product of queries and keys")
    left, right = made[0].inputs
    query, key = unscale(left), unscale(right.inputs[0] if right.op in TRANSPOSES else right)
    product = made[0].value.reshape(scores.value.shape)[allowed].float()
    wanted = scores.value[allowed].float()
    scale = float((product * wanted).sum() / product.square().sum())
    if not close(product * scale, wanted.to(scores.value.dtype)):
        raise UnrecognisedError(
            scores, "attention scores", "not a multiple of q·k: a bias, a cap or something else"
        )
    return query.node, key.node, scale * query.factor * key.factor
