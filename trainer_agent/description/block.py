"""A whole block from its traced graph: which branch, which norm, in which order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dslm.spec import Residual

from .attention import AttentionCall, attention_call
from .feed_forward import EXPERTS, FeedForwardCall, feed_forward_call, routes_tokens
from .graph import Scaled, UnrecognisedError, strip, terms, unscale
from .linears import LinearCall, linear_call
from .norms import NormCall, norm_call
from .parts import BlockParts, NormPart, Placement
from .trace import Node

Branch = AttentionCall | FeedForwardCall


@dataclass(frozen=True, slots=True)
class Sublayer:
    """One residual step: stream in, branch, norm, and where the norm stands."""

    stream: Node
    branch: Branch
    norm: NormPart
    placement: Placement
    residual: Residual


def block_parts(stream: Node, output: Node, model: nn.Module) -> BlockParts:
    """Read a block backwards from its output; raises UnrecognisedError where it is another."""
    last = _sublayer(output, model)
    first = _sublayer(last.stream, model)
    if strip(first.stream) is not stream:
        raise UnrecognisedError(
            first.stream, "more than two residual steps", "known is attention, then feed-forward"
        )
    if first.placement != last.placement:
        raise UnrecognisedError(output, "norm placement", "differs between the block's two halves")
    if not isinstance(first.branch, AttentionCall) or not isinstance(last.branch, FeedForwardCall):
        raise UnrecognisedError(
            output, "order of branches", "known is attention first, then feed-forward"
        )
    return BlockParts(
        placement=first.placement,
        attention=first.branch.parts,
        attention_norm=first.norm,
        attention_residual=first.residual,
        feed_forward=last.branch.parts,
        feed_forward_norm=last.norm,
        feed_forward_residual=last.residual,
    )


def _sublayer(output: Node, model: nn.Module) -> Sublayer:
    """One residual step, from what it puts out."""
    after = strip(output)
    post = norm_call(after, model)
    skip, scaled_branch, call = _sum(strip(post.input) if post else after, model)
    branch = attention_call(call) or feed_forward_call(call)
    pre = norm_call(strip(branch.input), model)
    placement, norm = _placement(post, pre, branch, skip.node)
    if skip.p_drop:
        raise UnrecognisedError(skip.node, "dropout", "on the residual stream itself")
    residual = Residual(lam=skip.factor, beta=scaled_branch.factor, p_drop=scaled_branch.p_drop)
    return Sublayer(skip.node, branch, norm, placement, residual)


def _sum(node: Node, model: nn.Module) -> tuple[Scaled, Scaled, LinearCall]:
    """(stream, branch, the dense map the branch ends in); a factor on the sum is on both."""
    whole = unscale(node)
    both = terms(whole.node)
    if both is None or whole.p_drop:
        raise UnrecognisedError(whole.node, f"{whole.node.op}", _why_no_sum(whole.node))
    both = _times(whole.factor, both)
    for branch, skip in (both, both[::-1]):
        call = linear_call(branch.node)
        if call is not None and linear_call(skip.node) is None:
            return skip, branch, call
    raise UnrecognisedError(node, *_why_no_branch(both, model))


def _times(factor: float, both: tuple[Scaled, Scaled]) -> tuple[Scaled, Scaled]:
    first, second = (Scaled(factor * s.factor, s.p_drop, s.node) for s in both)
    return first, second


def _why_no_sum(node: Node) -> str:
    if node.op == "input":
        return "the block has fewer than two residual steps"
    return "not a residual sum of the stream and one branch"


def _why_no_branch(both: tuple[Scaled, Scaled], model: nn.Module) -> tuple[str, str]:
    ops = {term.node.op for term in both}
    if any(routes_tokens(term.node) for term in both):
        return EXPERTS
    if any(norm_call(term.node, model) for term in both):
        return "norm on a branch", "known is a norm before the branch, or after the sum"
    if ops & {"add", "add_", "__add__"}:
        return "parallel branches", "known is attention first, then feed-forward on its result"
    return "residual branch", f"ends in {' and '.join(sorted(ops))}, not in a dense map"


def _placement(
    post: NormCall | None, pre: NormCall | None, branch: Branch, skip: Node
) -> tuple[Placement, NormPart]:
    if post is not None and strip(branch.input) is skip:
        return "post", post.part
    if post is None and pre is not None and strip(pre.input) is skip:
        return "pre", pre.part
    if post is not None and pre is not None:
        raise UnrecognisedError(skip, "two norms per branch", "known is one, before or after")
    if post is None and pre is None:
        raise UnrecognisedError(skip, "no norm", "known is a norm before the branch or after it")
    raise UnrecognisedError(
        skip, "parallel branches", "a branch reads another stream than the one it is added to"
    )
