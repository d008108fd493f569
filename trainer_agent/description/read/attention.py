"""Self-attention in a traced graph: fused or written out, checked against its numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer_agent.capture.token_axis import by_attention
from trainer_agent.description.read.biases import bias_part
from trainer_agent.description.read.einsum import mixed_of
from trainer_agent.description.read.linears import LinearCall
from trainer_agent.description.read.masks import Sight, let_through, sight
from trainer_agent.description.read.packed_attention import OP, packed_inputs, packed_parts
from trainer_agent.description.read.parts import AttentionParts, LinearPart
from trainer_agent.description.read.position_bias import BiasPart
from trainer_agent.description.read.projection import Projection, projection
from trainer_agent.description.read.rotary import same_rotation
from trainer_agent.description.read.scores import PRODUCTS, read_scores
from trainer_agent.description.trace.graph import (
    VIEWS,
    UnrecognisedError,
    ancestors,
    argument,
    dropout_probability,
    strip,
)
from trainer_agent.description.trace.tracer import Node


@dataclass(frozen=True, slots=True)
class Core:
    """softmax(score_scale * q·k + mask) @ v: the part between the projections.

    With a `soft_cap` c the scores are c·tanh(score_scale * q·k / c). What else is added to them
    is `bias`, at the pairs `allowed`.
    """

    query: Node
    key: Node
    value: Node
    sight: Sight
    score_scale: float
    p_drop: float
    soft_cap: float | None = None
    bias: Tensor | None = None
    allowed: Tensor | None = None
    sink: str | None = None


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One use of attention: what queries are read from, and keys and values if something else."""

    input: Node
    parts: AttentionParts
    encoder_output: Node | None = None


def attention_call(output: LinearCall, model: nn.Module) -> AttentionCall | None:
    """Attention whose output projection is `output`; None where something else feeds it."""
    mixed = strip(output.input, VIEWS)
    if mixed.op == OP:
        reads, key_source = packed_inputs(mixed)
        return _call(reads, key_source, packed_parts(mixed, output.part(), model))
    core = _core(mixed)
    if core is None:
        return None
    query, key, value = (projection(n, model) for n in (core.query, core.key, core.value))
    _check(core, query, key, value)
    n_heads, _ = _heads(core.query, query)
    bias = _bias(mixed, core, n_heads // query.n_parts, model)
    if bias is not None and query.n_parts > 1:
        raise UnrecognisedError(mixed, "position bias", "of heads that lie over several processes")
    return _call(query.input, key.input, _parts(core, (query, key, value), output.part(), bias))


def _call(reads: Node, key_source: Node, parts: AttentionParts) -> AttentionCall:
    if key_source is reads:
        return AttentionCall(reads, parts)
    masked = parts.causal or parts.window is not None or parts.rotary is not None
    if masked or parts.position_bias is not None:
        why = "known is one without mask, window, rotation or position bias"
        raise UnrecognisedError(key_source, "cross-attention", why)
    return AttentionCall(reads, parts, key_source)


def _bias(mixed: Node, core: Core, n_heads: int, model: nn.Module) -> BiasPart | None:
    if core.bias is None or core.allowed is None:
        return None
    return bias_part(mixed, core.bias, core.allowed, n_heads, model)


def _check(core: Core, query: Projection, key: Projection, value: Projection) -> None:
    """Raise where the theory has no word for what is done to queries, keys and values."""
    if key.input is not value.input:
        raise UnrecognisedError(
            core.key, "attention input", "keys and values read different streams"
        )
    if not same_rotation(query.rotary, key.rotary, core.query.value):
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
    core: Core,
    sides: tuple[Projection, Projection, Projection],
    output: LinearPart,
    bias: BiasPart | None,
) -> AttentionParts:
    query, key, value = sides
    n_heads, d_head = _heads(core.query, query)
    n_kv_heads = key.part.d_out // d_head
    d_value = output.d_in // n_heads
    same_width = value.part.d_out == n_kv_heads * d_value and output.d_in == n_heads * d_value
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
        prefix=core.sight.prefix,
        position_bias=bias,
        sink=core.sink,
        token_axis=_token_axis(query.input, core.query, n_heads),
    )


def _token_axis(stream: Node, query: Node, n_heads: int) -> int | None:
    """The stream's axis that queries, (batch, heads, seq, d_head), have for their tokens."""
    shape = query.value.shape
    # Three dimensions hold batch and heads in one.
    n_sequences = shape[0] if len(shape) == 4 else shape[0] // max(n_heads, 1)
    return by_attention(stream.value.shape, n_sequences, shape[-2])


def _heads(query: Node, made_by: Projection) -> tuple[int, int]:
    """(heads, their width) over all processes; three dimensions may hold batch and heads in one."""
    shape = query.value.shape
    if len(shape) == 4:
        return shape[-3] * made_by.n_parts, shape[-1]
    return made_by.part.d_out // shape[-1], shape[-1]


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
    allowed = None if mask is None else let_through(mask.value)
    return Core(
        query=query,
        key=key,
        value=value,
        sight=Sight(flagged) if allowed is None else sight(node, allowed),
        score_scale=float(scale) if scale is not None else query.value.shape[-1] ** -0.5,
        p_drop=float(argument(node, 4, "dropout_p", 0.0)),
        bias=None if mask is None or mask.value.dtype == torch.bool else mask.value,
        allowed=allowed,
    )


def _written_core(node: Node) -> Core | None:
    """Attention spelled out as matmul, softmax, matmul."""
    mixed = mixed_of(node)
    if len(node.inputs) != 2 or (node.op == "einsum" and mixed is None):
        return None
    weights, value = node.inputs if mixed is None else (mixed.left, mixed.right)
    p_drop = 0.0
    while weights.op != "softmax":
        if weights.op == "dropout":
            p_drop = dropout_probability(weights)
        elif weights.op not in VIEWS or not weights.inputs:
            return None
        weights = weights.inputs[0]
    allowed = weights.value > 0
    scores, sink = weights.inputs[0], None
    if weights.value.shape[-1] == value.value.shape[-2] + 1:
        scores, sink = _without_sink(scores)
        allowed = allowed[..., :-1]
    score = read_scores(scores, allowed)
    return Core(
        query=score.query,
        key=score.key,
        value=value,
        sight=sight(scores, allowed),
        score_scale=score.scale,
        p_drop=p_drop,
        soft_cap=score.soft_cap,
        bias=score.bias,
        allowed=allowed,
        sink=sink,
    )


def _without_sink(scores: Node) -> tuple[Node, str]:
    """The scores of the keys alone, and the parameter that holds a logit of each head besides."""
    joined = [n for n in ancestors(scores, lambda n: n.op == "cat") if n.op == "cat"]
    if len(joined) == 1 and len(joined[0].inputs) == 2:
        keys, sink = joined[0].inputs
        logit = strip(sink, VIEWS)
        if logit.op == "parameter" and sink.value.shape[-1] == 1:
            return keys, logit.where
    raise UnrecognisedError(scores, "attention scores", "a logit besides those of the keys")
