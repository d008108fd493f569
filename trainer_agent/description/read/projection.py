"""Queries, keys and values in a traced graph: the dense map they come from, and what follows it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from dslm.spec import Rotary
from trainer_agent.description.read.linears import LinearCall, linear_call
from trainer_agent.description.read.norms import NormCall, norm_call, norm_of_heads
from trainer_agent.description.read.parts import Latent, LinearPart, NormPart
from trainer_agent.description.read.rotary import rotary_between
from trainer_agent.description.trace.graph import (
    VIEWS,
    UnrecognisedError,
    ancestors,
    is_view_of,
    multiple,
    strip,
    unscale,
)
from trainer_agent.description.trace.tracer import Node


@dataclass(frozen=True, slots=True)
class Projection:
    """factor * rotary(norm(part(input))): a projection, and the stream it reads.

    The factor may stand before the rotation, as ESM has it, or after it.

    `norm` and `rotary` are None where there is none; `norm_width` is the number of features the
    norm is over, 0 without one; `n_parts` is over how many processes the features lie.
    """

    part: LinearPart
    input: Node
    factor: float = 1.0
    norm: NormPart | None = None
    norm_width: int = 0
    rotary: Rotary | None = None
    n_parts: int = 1


def projection(node: Node, model: nn.Module) -> Projection:
    """Trace queries, keys or values back to the dense map they come from."""
    if (joined := _shared_rotation(node, model)) is not None:
        return joined
    outer = norm_call(strip(node, VIEWS), model)
    if outer is not None and outer.input.value.shape[-1] == node.value.shape[-1]:
        # Turning keeps a head's length, so that its norm may as well stand before.
        inside = projection(outer.input, model)
        if inside.norm is None and inside.rotary is not None:
            return replace(inside, norm=outer.part, norm_width=node.value.shape[-1])
    return _in_terms_of_stream(_projection(node, model), model)


def _in_terms_of_stream(made: Projection, model: nn.Module) -> Projection:
    """A projection of a projection to fewer features (latent attention) as one of the stream."""
    inner = strip(made.input, VIEWS)
    norm = norm_call(inner, model)
    below = inner if norm is None else strip(norm.input, VIEWS)
    down = linear_call(below)
    if down is None or made.n_parts > 1:
        return made
    taken = norm.input if norm is not None else made.input
    latent = Latent(down.part(taken), None if norm is None else norm.part)
    return replace(made, part=replace(made.part, latent=latent), input=down.input)


def _shared_rotation(node: Node, model: nn.Module) -> Projection | None:
    """Keys of which each head has some features, and all heads share others, which are turned."""
    top = strip(node, VIEWS)
    pieces = top.inputs if top.op in {"cat", "assemble"} else ()
    if len(pieces) != 2 or any(piece.value.ndim != 4 for piece in pieces):
        return None
    sources = [strip_to_map(piece) for piece in pieces]
    if any(source is None for source in sources) or sources[0] is sources[1]:
        return None
    own, shared = (projection(piece, model) for piece in pieces)
    n_heads = top.value.shape[-3]
    is_whole = own.rotary is None and own.part.latent is not None and shared.rotary is not None
    widths = [piece.value.shape[-1] for piece in pieces]
    if not is_whole or own.input is not shared.input or own.norm or shared.norm:
        return None
    rotary = shared.rotary
    assert rotary is not None
    rotary = replace(rotary, fraction=rotary.fraction * widths[1] / sum(widths))
    every = replace(shared.part, d_out=n_heads * widths[1])
    part = replace(own.part, d_out=n_heads * sum(widths), beside=every)
    return replace(own, part=part, rotary=rotary)


def strip_to_map(node: Node) -> Node | None:
    """The output of the one dense map that a node is computed from, else None."""
    outputs = [n for n in ancestors(node, lambda n: linear_call(n) is not None) if linear_call(n)]
    return outputs[0] if len(outputs) == 1 else None


def _projection(node: Node, model: nn.Module) -> Projection:
    call = _source(node)
    normed = _norm_after(node, call, model)
    base, made, norm = (call.output, None, None) if normed is None else normed
    norm_part = norm.part if norm else None
    width = norm.input.value.shape[-1] if norm else 0
    scale, base, made = _scaled(node, base, made)
    factor, top = _without_factor(node, base)
    factor *= scale
    if is_view_of(top, base):
        part = call.part(made or top)
        return Projection(part, call.input, factor, norm_part, width, n_parts=call.n_parts)
    before, after = _around_change(top, base)
    rotary = _rotary(before.value, after.value)
    if rotary is None:
        raise UnrecognisedError(after, "queries or keys changed", "not a plain rotary embedding")
    part = call.part(made or before)
    return Projection(part, call.input, factor, norm_part, width, rotary, call.n_parts)


def _source(node: Node) -> LinearCall:
    """The one dense map a node is computed from."""
    sources = [n for n in ancestors(node, lambda n: linear_call(n) is not None) if linear_call(n)]
    call = linear_call(sources[0]) if len(sources) == 1 else None
    if call is None:
        raise UnrecognisedError(node, "attention input", "not made by one dense projection")
    return call


def _norm_after(
    node: Node, call: LinearCall, model: nn.Module
) -> tuple[Node, Node, NormCall] | None:
    """(output, input, norm) of a norm on a projection, else None."""
    made_of_it = ancestors(node, lambda n: n is call.output)
    for made in made_of_it:
        norm = norm_of_heads(made, model)
        if norm is not None and is_view_of(norm.input, call.output):
            return made, norm.input, norm
    for made in made_of_it:
        norm = norm_call(made, model)
        if norm is not None and is_view_of(norm.input, call.output):
            return made, norm.input, norm
    return None


def _scaled(node: Node, base: Node, made: Node | None) -> tuple[float, Node, Node | None]:
    """Go past a number that multiplies all of `base`: (number, what it makes, the view before)."""
    for scaled in ancestors(node, lambda n: n is base):
        times = multiple(scaled)
        if times is None or not is_view_of(times[1], base):
            continue
        around = ancestors(node, lambda n, s=scaled: n is s)  # type: ignore[misc]
        if not any(n is base for n in around):
            return times[0], scaled, made or times[1]
    return 1.0, base, made


def _without_factor(node: Node, base: Node) -> tuple[float, Node]:
    """Take numbers that multiply off a node, if they and views are all that is on `base`."""
    factor, top = 1.0, node
    while not is_view_of(top, base):
        bare = unscale(strip(top, VIEWS))
        if bare.factor == 1.0 or bare.p_drop or bare.node.value.numel() != top.value.numel():
            break
        factor, top = factor * bare.factor, bare.node
    return factor, top


def _around_change(node: Node, source: Node) -> tuple[Node, Node]:
    """The last mere view of `source` that all of `node` comes from, and the first to follow."""
    after = strip(node, VIEWS)
    for before in reversed(ancestors(after, lambda n: n is source)):
        around = ancestors(after, lambda n, b=before: n is b)  # type: ignore[misc]
        if before is not after and _views(before, source) and source not in around[:-1]:
            return before, after
    return source, after


def _views(node: Node, source: Node) -> bool:
    return any(n is source for n in ancestors(node, lambda n: n is source)) and is_view_of(
        node, source
    )


def _rotary(before: Tensor, after: Tensor) -> Rotary | None:
    """The rotation between two (batch, heads, seq, d_head), or with heads after seq."""
    if before.ndim == 5:  # complex pairs as a last dimension of two
        before, after = before.flatten(3), after.flatten(3)
    if before.ndim == 3:
        before, after = before.unsqueeze(1), after.unsqueeze(1)
    if before.ndim != 4 or before.shape != after.shape:
        return None
    rotary = rotary_between(before, after)
    return rotary or rotary_between(before.transpose(1, 2), after.transpose(1, 2))
