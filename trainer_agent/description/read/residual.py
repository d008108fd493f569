"""Residual sums in a traced graph: the stream, the branches added to it, their factors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from dslm.spec import Residual
from trainer_agent.description.read.feed_forward import EXPERTS, routes_tokens
from trainer_agent.description.read.linears import LinearCall, gain_over_dropout, linear_call
from trainer_agent.description.read.norms import NormCall, norm_call
from trainer_agent.description.trace.graph import ADDS, Scaled, UnrecognisedError, terms, unscale
from trainer_agent.description.trace.tracer import Node


@dataclass(frozen=True, slots=True)
class Step:
    """skip + dropout(norm(call)), each with its factor; `out_norm` is None where there is none.

    `call` is the branch's last dense map, or the sum of the experts that its tokens were sent to.
    """

    skip: Scaled
    branch: Scaled
    call: LinearCall | Node
    out_norm: NormCall | None = None

    def residual(self) -> Residual:
        """Factors and dropout of the step; raises where the stream itself has dropout."""
        if self.skip.p_drop:
            raise UnrecognisedError(self.skip.node, "dropout", "on the residual stream itself")
        return Residual(self.skip.factor, self.branch.factor, self.branch.p_drop)


def residual_step(node: Node, model: nn.Module) -> Step:
    """The sum a node is, as stream and branch; a factor on the sum is on both."""
    total = unscale(node)
    both = terms(total.node)
    if both is None or total.p_drop:
        raise UnrecognisedError(total.node, f"{total.node.op}", _why_no_sum(total.node))
    both = _times(total.factor, both)
    for branch, skip in (both, both[::-1]):
        step = _step(skip, branch, model)
        if step is not None and linear_call(skip.node) is None and not routes_tokens(skip.node):
            return step
    raise UnrecognisedError(node, *_why_no_branch(both, model))


def _step(skip: Scaled, branch: Scaled, model: nn.Module) -> Step | None:
    call = linear_call(branch.node)
    if call is not None:
        return Step(skip, branch, call)
    if (gained := gain_over_dropout(branch.node)) is not None:
        factor, p, call = gained
        p_drop = branch.p_drop + p - branch.p_drop * p
        return Step(skip, Scaled(branch.factor * factor, p_drop, branch.node), call)
    normed = norm_call(branch.node, model)
    if normed is None:
        return Step(skip, branch, branch.node) if routes_tokens(branch.node) else None
    inside = unscale(normed.input)
    ends = linear_call(inside.node) or (inside.node if routes_tokens(inside.node) else None)
    plain = inside.factor == 1.0 and inside.p_drop == 0.0
    return Step(skip, branch, ends, normed) if ends is not None and plain else None


def parallel_steps(stream: Node, output: Node) -> tuple[Step, ...]:
    """The two branches of a sum of three addends, the third being the stream; else nothing."""
    addends = list(_addends(unscale(output)))
    skips = [s for s in addends if s.node is stream]
    calls = [(s, call) for s in addends if (call := linear_call(s.node)) is not None]
    if len(addends) != 3 or len(skips) != 1 or len(calls) != 2:
        return ()
    return tuple(Step(skips[0], branch, call) for branch, call in calls)


def _addends(total: Scaled) -> Iterator[Scaled]:
    """What a sum, or a sum of sums, adds up; dense maps with a bias are one addend."""
    is_sum = total.node.op in ADDS and linear_call(total.node) is None and not total.p_drop
    both = terms(total.node) if is_sum else None
    if both is None:
        yield total
        return
    for term in _times(total.factor, both):
        yield from _addends(term)


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
        return "norm on a branch", "known is one on what the branch's last dense map puts out"
    if ops & ADDS:
        return "parallel branches", "known are attention and feed-forward reading the stream alike"
    return "residual branch", f"ends in {' and '.join(sorted(ops))}, not in a dense map"
