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
from .masks import Sight, let_through, sight
from .numbers import close
from .packed_attention import OP, packed_inputs, packed_parts
from .parts import AttentionParts, LinearPart
from .projection import Projection, projection
from .trace import Node

PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "baddbmm", "einsum"})


@dataclass(frozen=True, slots=True)
class Core:
    """softmax(score_scale * q·k + mask) @ v: the part between the projections.

    With a `soft_cap` c the scores are c·tanh(score_scale * q·k / c).
    """

    query: Node
    key: Node
    value: Node
    sight: Sight
    score_scale: float
    p_drop: float
    soft_cap: float | None = None


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One use of attention: what queries are read from, and keys and values if something else."""

    input: Node
    parts: AttentionParts
    memory: Node | None = None


def attention_call(output: LinearCall, model: nn.Module) -> AttentionCall | None:
    """Attention whose output projection is `output`; None where something else feeds it."""
    mixed = strip(output.input, VIEWS)
    if mixed.op == OP:
        reads, memory = packed_inputs(mixed)
        return _call(reads, memory, packed_parts(mixed, output.part()))
    core = _core(mixed)
    if core is None:
        return None
    query, key, value = (projection(n, model) for n in (core.query, core.key, core.value))
    _check(core, query, key, value)
    return _call(query.input, key.input, _parts(core, query, key, value, output.part()))


def _call(reads: Node, memory: Node, parts: AttentionParts) -> AttentionCall:
    if memory is reads:
        return AttentionCall(reads, parts)
    if parts.causal or parts.window is not None or parts.rotary is not None:
        why = "known is one without mask, window or rotation"
        raise UnrecognisedError(memory, "cross-attention", why)
    return AttentionCall(reads, parts, memory)


def _check(core: Core, query: Projection, key: Projection, value: Projection) -> None:
    """Raise where the theory has no word for what is done to queries, keys and values."""
    if key.input is not value.input:
        raise UnrecognisedError(
            core.key, "attention input", "keys and values read different streams"
        )
    if query.rotary != key.rotary:
        raise UnrecognisedError(core.query, "rotary embedding", "queries and keys turn differently")
    if value.rotary is not None:
        raise UnrecognisedError(core.value, "rotary embedding", "values are rotated")
    if value.norm is not None or value.factor != 1.0:
        raise UnrecognisedError(core.value, "values", "a norm or a number changes them")
    for side, node in ((query, core.query), (key, core.key)):
        if side.norm_width not in {0, core.query.value.shape[-1], side.part.d_out}:
            raise UnrecognisedError(
                node, "qk-norm", "over neither a head's features nor all heads'"
            )
    if (query.norm is None) != (key.norm is None):
        raise UnrecognisedError(core.query, "qk-norm", "on queries or keys alone")


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
        causal=core.sight.causal,
        score_scale=core.score_scale * query.factor * key.factor,
        rotary=query.rotary,
        p_drop=core.p_drop,
        query_norm=query.norm,
        key_norm=key.norm,
        soft_cap=core.soft_cap,
        window=core.sight.window,
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
        sight=Sight(flagged) if mask is None else sight(node, let_through(node, mask.value)),
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
    return _scored(weights.inputs[0], value, allowed, p_drop)


def _scored(scores: Node, value: Node, allowed: Tensor, p_drop: float) -> Core:
    """Queries, keys and the factors on their product, checked where the mask lets pairs through."""
    made = [n for n in ancestors(scores, lambda n: n.op in PRODUCTS) if n.op in PRODUCTS]
    if len(made) != 1 or made[0].op in {"einsum", "baddbmm"} or len(made[0].inputs) != 2:
        raise UnrecognisedError(scores, "attention scores", "not one product of queries and keys")
    left, right = made[0].inputs
    query, key = unscale(left), unscale(right.inputs[0] if right.op in TRANSPOSES else right)
    scale, cap = _score_scale(scores, made[0], allowed)
    return Core(
        query=query.node,
        key=key.node,
        value=value,
        sight=sight(scores, allowed),
        score_scale=scale * query.factor * key.factor,
        p_drop=p_drop,
        soft_cap=cap,
    )


def _score_scale(scores: Node, product: Node, allowed: Tensor) -> tuple[float, float | None]:
    """(factor on the product, soft cap or None) that give the scores."""
    squashed = [n for n in ancestors(scores, lambda n: n is product) if n.op == "tanh"]
    if len(squashed) == 1:
        cap = _ratio(scores, squashed[0], allowed)
        inside = _ratio(squashed[0].inputs[0], product, allowed)
        if cap is not None and inside is not None:
            return cap * inside, cap
    scale = _ratio(scores, product, allowed)
    if scale is None:
        raise UnrecognisedError(
            scores, "attention scores", "not a multiple of q·k: a bias or something else"
        )
    return scale, None


def _ratio(node: Node, other: Node, allowed: Tensor) -> float | None:
    """The number that times `other` gives `node` at the pairs let through; None without one."""
    unit = other.value.reshape(node.value.shape)[allowed].float()
    wanted = node.value[allowed]
    ratio = float((unit * wanted.float()).sum() / unit.square().sum())
    return ratio if close((unit * ratio).to(wanted.dtype), wanted) else None
