"""``nn.MultiheadAttention`` in a traced graph: projections, attention and output in one call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer_agent.description.read.biases import bias_part
from trainer_agent.description.read.masks import Sight, let_through, sight
from trainer_agent.description.read.parts import AttentionParts, LinearPart
from trainer_agent.description.read.position_bias import BiasPart
from trainer_agent.description.trace.graph import VIEWS, UnrecognisedError, argument, strip
from trainer_agent.description.trace.tracer import Node

OP = "multi_head_attention_forward"
NAMES = (
    "query",
    "key",
    "value",
    "embed_dim_to_check",
    "num_heads",
    "in_proj_weight",
    "in_proj_bias",
    "bias_k",
    "bias_v",
    "add_zero_attn",
    "dropout_p",
    "out_proj_weight",
    "out_proj_bias",
)


def packed_argument(node: Node, name: str) -> Node | None:
    """A tensor argument of the call, or None."""
    value = argument(node, NAMES.index(name), name)
    return strip(value) if isinstance(value, Node) else None


def packed_inputs(node: Node) -> tuple[Node, Node]:
    """The streams that queries, and that keys and values are views of."""
    streams = [packed_argument(node, name) for name in NAMES[:3]]
    query, key, value = (n and strip(n, VIEWS) for n in streams)
    if query is None or key is None or key is not value:
        raise UnrecognisedError(node, "attention input", "keys and values read different streams")
    return query, key


def packed_parts(node: Node, output: LinearPart, model: nn.Module) -> AttentionParts:
    """Heads, slices, mask and dropout of the call."""
    extras = [packed_argument(node, name) for name in ("bias_k", "bias_v")]
    weight = packed_argument(node, "in_proj_weight")
    if weight is None or any(extras) or argument(node, 9, "add_zero_attn", False):
        raise UnrecognisedError(node, "nn.MultiheadAttention", "with kdim, bias_kv or a zero token")
    width, n_heads = weight.value.shape[1], int(argument(node, 4, "num_heads"))
    bias_node = packed_argument(node, "in_proj_bias")
    bias = None if bias_node is None else bias_node.where
    query, key, value = (
        LinearPart(weight.where, bias, width, width, ((i * width, (i + 1) * width),))
        for i in range(3)
    )
    d_head = width // n_heads
    sees = _sight(node)
    return AttentionParts(
        query=query,
        key=key,
        value=value,
        output=output,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=d_head,
        causal=sees.causal,
        window=sees.window,
        prefix=sees.prefix,
        position_bias=_bias(node, n_heads, model),
        score_scale=d_head**-0.5,
        rotary=None,
        p_drop=float(argument(node, 10, "dropout_p")) if node.kwargs.get("training", True) else 0.0,
        token_axis=_token_axis(node),
    )


def _token_axis(node: Node) -> int:
    """The call takes (seq, batch, features): a stream that comes as it is has them so, too."""
    query = packed_argument(node, "query")
    return 0 if query is not None and query is strip(query, VIEWS) else 1


def _sight(node: Node) -> Sight:
    mask = node.kwargs.get("attn_mask")
    return sight(node, _allowed(mask.value)) if isinstance(mask, Node) else Sight(False)


def _allowed(mask: Tensor) -> Tensor:
    """Here a true entry of a mask of booleans is a pair kept out."""
    return ~mask if mask.dtype == torch.bool else let_through(mask)


def _bias(node: Node, n_heads: int, model: nn.Module) -> BiasPart | None:
    mask = node.kwargs.get("attn_mask")
    if not isinstance(mask, Node) or mask.value.dtype == torch.bool:
        return None
    return bias_part(node, mask.value, _allowed(mask.value), n_heads, model)
