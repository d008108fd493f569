"""A whole block from its traced graph: which branch, which norms, in which order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from dslm.spec import Placement, Residual
from trainer_agent.description.read.attention import AttentionCall, attention_call
from trainer_agent.description.read.experts import experts_call
from trainer_agent.description.read.feed_forward import FeedForwardCall, feed_forward_call
from trainer_agent.description.read.norms import NormCall, norm_call
from trainer_agent.description.read.parts import BlockParts, CrossParts, NormPart
from trainer_agent.description.read.residual import parallel_steps, residual_step
from trainer_agent.description.trace.graph import UnrecognisedError, strip, unscale
from trainer_agent.description.trace.tracer import Node

Branch = AttentionCall | FeedForwardCall
NO_NORM = ("no norm", "known is one before, on or after the branch")


@dataclass(frozen=True, slots=True)
class Sublayer:
    """One residual step: stream in, branch, norms, and where the norms stand.

    `norm` is the one that every placement has, `out_norm` the second of a sandwich. Attention that
    reads the stream as it is has None, and the placement "pre".
    """

    stream: Node
    branch: Branch
    norm: NormPart | None
    placement: Placement
    residual: Residual
    out_norm: NormPart | None = None


@dataclass(frozen=True, slots=True)
class BlockCall:
    """One use of a block, and the other stack's output it reads, or None."""

    parts: BlockParts
    encoder_output: Node | None


def block_call(stream: Node, output: Node, model: nn.Module) -> BlockCall:
    """Read a block backwards from its output; raises UnrecognisedError where it is another."""
    steps = _parallel(stream, output, model) or _serial(stream, output, model)
    if len({step.placement for step in steps}) != 1:
        raise UnrecognisedError(output, "norm placement", "differs between the block's branches")
    first, last = steps[0], steps[-1]
    middle = steps[1] if len(steps) == 3 else None
    if isinstance(first.branch, AttentionCall) and first.branch.encoder_output is not None:
        raise UnrecognisedError(output, "cross-attention", "known is one after self-attention")
    cross, encoder_output = _cross(middle) if middle else (None, None)
    return BlockCall(_block(first, last, cross), encoder_output)


def _serial(stream: Node, output: Node, model: nn.Module) -> tuple[Sublayer, ...]:
    """The block's residual steps, two or three, first to last."""
    steps: list[Sublayer] = []
    node = output
    while strip(node) is not stream or len(steps) < 2:
        if len(steps) == 3:
            why = "known is attention, to itself or also to another stack, then feed-forward"
            raise UnrecognisedError(node, "more residual steps", why)
        steps.append(_sublayer(node, model))
        node = steps[-1].stream
    return tuple(steps[::-1])


def _cross(step: Sublayer) -> tuple[CrossParts, Node]:
    if not isinstance(step.branch, AttentionCall) or step.branch.encoder_output is None:
        raise UnrecognisedError(
            step.stream, "more than two residual steps", "known is attention, then feed-forward"
        )
    if step.norm is None:
        raise UnrecognisedError(step.stream, *NO_NORM)
    parts = CrossParts(step.branch.parts, step.norm, step.residual, step.out_norm)
    return parts, step.branch.encoder_output


def _block(first: Sublayer, last: Sublayer, cross: CrossParts | None) -> BlockParts:
    if last.norm is None:
        raise UnrecognisedError(last.stream, *NO_NORM)
    if not isinstance(first.branch, AttentionCall) or not isinstance(last.branch, FeedForwardCall):
        raise UnrecognisedError(
            last.stream, "order of branches", "known is attention first, then feed-forward"
        )
    return BlockParts(
        placement=first.placement,
        attention=first.branch.parts,
        attention_norm=first.norm,
        attention_residual=first.residual,
        feed_forward=last.branch.parts,
        feed_forward_norm=last.norm,
        feed_forward_residual=last.residual,
        attention_out_norm=first.out_norm,
        feed_forward_out_norm=last.out_norm,
        cross=cross,
    )


def _sublayer(output: Node, model: nn.Module) -> Sublayer:
    """One residual step, from what it puts out."""
    after = strip(output)
    post = norm_call(after, model)
    step = residual_step(strip(post.input) if post else after, model)
    if isinstance(step.call, Node):
        branch: Branch = experts_call(step.call, model)
    else:
        branch = attention_call(step.call, model) or feed_forward_call(step.call)
    reads = strip(branch.input)
    # a Post-LN branch reads the stream as the last norm left it
    pre = None if reads is step.skip.node else _scaled_norm(reads, model)
    if pre is not None:
        reads = strip(pre.input)
    if reads is not step.skip.node:
        raise UnrecognisedError(
            step.skip.node,
            "branch input",
            "a branch reads another stream than the one it is added to",
        )
    normed = (pre, step.out_norm, post)
    if normed == (None, None, None) and isinstance(branch, AttentionCall):
        return Sublayer(step.skip.node, branch, None, "pre", step.residual())
    placement, norm, out_norm = _placement(*normed, step.skip.node)
    return Sublayer(step.skip.node, branch, norm, placement, step.residual(), out_norm)


def _scaled_norm(node: Node, model: nn.Module) -> NormCall | None:
    """A norm, and the number that its output is multiplied by (LayerNorm scaling)."""
    outer = unscale(node)
    norm = None if outer.p_drop else norm_call(outer.node, model)
    if norm is None or outer.factor == 1.0:
        return norm
    return NormCall(norm.input, replace(norm.part, factor=outer.factor))


def _placement(
    pre: NormCall | None, on_branch: NormCall | None, post: NormCall | None, where: Node
) -> tuple[Placement, NormPart, NormPart | None]:
    """(placement, norm, second norm) from the norms before and on the branch, and on the sum."""
    if post is not None:
        if pre is None and on_branch is None:
            return "post", post.part, None
        raise UnrecognisedError(where, "norm on the sum", "and another norm in the same step")
    if pre is not None:
        if on_branch is None:
            return "pre", pre.part, None
        return "sandwich", pre.part, on_branch.part
    if on_branch is not None:
        return "branch", on_branch.part, None
    raise UnrecognisedError(where, *NO_NORM)


def _parallel(stream: Node, output: Node, model: nn.Module) -> tuple[Sublayer, Sublayer] | None:
    """Attention and feed-forward that both read the stream and are both added to it."""
    sublayers: list[Sublayer] = []
    # Last first: in a block whose branches follow each other the last one does not read the stream.
    for step in reversed(parallel_steps(stream, output)):
        if isinstance(step.call, Node):
            return None
        branch = attention_call(step.call, model) or feed_forward_call(step.call)
        pre = _scaled_norm(strip(branch.input), model)
        if pre is None or strip(pre.input) is not stream:
            return None
        sublayers.append(Sublayer(stream, branch, pre.part, "parallel", step.residual()))
    sublayers.sort(key=lambda sub: isinstance(sub.branch, FeedForwardCall))
    if len(sublayers) != 2:
        return None
    first, last = sublayers
    # one stream, whose factor the attention's residual holds
    return first, replace(last, residual=replace(last.residual, lam=1.0))
