"""The gain of a block's gradient, from behind it to before it, as a change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dslm.attribution.change import (
    Cause,
    Change,
    UndefinedError,
    aligned_sum,
    measured,
    product,
    ratio,
)
from dslm.attribution.forward import READS_STREAM
from dslm.attribution.walk import (
    CROSS,
    FEED_FORWARD,
    Pair,
    Walk,
    back_through_norm,
    joined,
    last_map,
    norm_name,
)
from dslm.flows import Site

UNIT = Change(1.0, 1.0)
ALIGNMENT: Cause = ("stream", "alignment")
UNEXPLAINED: Cause = ("stream", "remainder")


@dataclass(frozen=True, slots=True)
class Backward:
    """One block backward.

    Attributes:
        gain: variance of the gradient before it, over that behind it.
        branches: what each branch alone returns to the stream that it reads, over the gradient
            behind the block.
        unexplained: by step, why it has no ratio.
    """

    gain: Change
    branches: Mapping[str, Change] = field(default_factory=dict)
    unexplained: Mapping[str, str] = field(default_factory=dict)


def backward(pair: Pair) -> Backward:
    """The block's backward change; raises UndefinedError where its gradient has no ratio."""
    sites = pair.flow_before.backward, pair.flow_after.backward
    if any(not {"in", "out"} <= flow.keys() for flow in sites):
        raise UndefinedError("its gradient was not measured on both sides")
    gains = [flow["in"].variance / (flow["out"].variance or math.nan) for flow in sites]
    ratio(gains[0], gains[1], UNEXPLAINED)
    walk = Walk((_relative(sites[0]), _relative(sites[1])), UNIT)
    is_parallel = pair.after.placement == "parallel"
    result = _parallel(pair, walk) if is_parallel else _serial(pair, walk)
    # What the means tell variances from mean squares by.
    return replace(result, gain=measured(result.gain, gains[0], gains[1], UNEXPLAINED))


def _serial(pair: Pair, start: Walk) -> Backward:
    branches: dict[str, Change] = {}
    unexplained: dict[str, str] = {}
    stream = UNIT
    for step in reversed(pair.steps):
        end = _before(pair, step)
        behind = _behind_norm(pair, step, replace(start, x=stream))
        try:
            branches[step] = _branch(pair, step, behind)
        except UndefinedError as error:
            unexplained[step] = str(error)
        addends = [product(pair.skip(step), behind.x)]
        addends += [branches[step]] if step in branches else []
        read = behind.pair(end)
        if read is None:
            raise UndefinedError(f"{end}: its gradient was not measured")
        cause = ALIGNMENT if step in branches else UNEXPLAINED
        stream = aligned_sum(addends, *read, cause)
    return Backward(stream, branches, unexplained)


def _parallel(pair: Pair, start: Walk) -> Backward:
    """Both branches read one stream, and what they return is measured together."""
    unexplained: dict[str, str] = {}
    addends = [product(pair.skip(pair.steps[0]), UNIT)]
    try:
        walks = [_to_stream(pair, step, _to_input(pair, step, start)) for step in pair.steps]
        walk = joined(walks).at("attention.returned", ("attention_norm", "directions"))
        if walk.has_gap:
            raise UndefinedError("attention: what it returns was not measured")
        addends.append(walk.x)
    except UndefinedError as error:
        unexplained = dict.fromkeys(pair.steps, str(error))
    entering = start.values[0]["in"], start.values[1]["in"]
    gain = aligned_sum(addends, *entering, UNEXPLAINED if unexplained else ALIGNMENT)
    return Backward(gain, {}, unexplained)


def _relative(sites: Mapping[str, Site]) -> dict[str, float]:
    """Mean squares over that behind the block."""
    behind = sites["out"].mean_square
    return {name: site.mean_square / behind for name, site in sites.items()}


def _before(pair: Pair, step: str) -> str:
    """The site of the stream that a step reads."""
    index = pair.steps.index(step)
    return "in" if index == 0 else f"{pair.steps[index - 1]}.stream"


def _behind_norm(pair: Pair, step: str, walk: Walk) -> Walk:
    """At a step's sum: before the norm of a Post-LN step."""
    norms = pair.norms(step)
    if pair.after.placement != "post" or norms is None:
        return walk
    site = f"{step}.sum"
    factor = back_through_norm(norms, norm_name(step), _squares(pair, site))
    walk = walk.unknown() if factor is None else walk.through(factor)
    walk = walk.at(site, (norm_name(step), "directions"))
    if walk.has_gap:
        raise UndefinedError(f"{site}: its gradient was not measured")
    return walk


def _branch(pair: Pair, step: str, behind: Walk) -> Change:
    """What a branch returns to the stream, from the gradient at the step's sum."""
    walk = _to_input(pair, step, behind)
    reads_stream = pair.after.placement in READS_STREAM or pair.norms(step) is None
    first = {FEED_FORWARD: "feed_forward.up", CROSS: "cross.query"}.get(step, f"{step}.value")
    if not reads_stream:
        if step != CROSS:
            walk = walk.at_if_seen(f"{step}.in", (first, "directions"))
        walk = _to_stream(pair, step, walk)
    name = first if reads_stream else norm_name(step)
    walk = walk.at(f"{step}.returned", (name, "directions"))
    if walk.has_gap:
        raise UndefinedError(f"{step}: what it returns was not measured")
    return walk.x


def _to_stream(pair: Pair, step: str, walk: Walk) -> Walk:
    """Through the norm before a branch."""
    norms = pair.norms(step)
    site = "in" if pair.after.placement == "parallel" else _before(pair, step)
    read = _squares(pair, site)
    factor = None if norms is None else back_through_norm(norms, norm_name(step), read)
    return walk.unknown() if factor is None else walk.through(factor)


def _to_input(pair: Pair, step: str, walk: Walk) -> Walk:
    """From a step's sum to what the branch's first maps read."""
    output, last = f"{step}.output", last_map(step)
    walk = walk.through(pair.branch_factor(step))
    is_branch = pair.after.placement == "branch"
    out_norms = pair.norms(step) if is_branch else pair.norms(step, out=True)
    if out_norms is not None:
        name = norm_name(step, out=not is_branch)
        factor = back_through_norm(out_norms, name, _squares(pair, output))
        walk = walk.unknown() if factor is None else walk.through(factor)
        walk = walk.at(output, (name, "directions"))
    else:
        walk = walk.at(output, (last, "remainder"))
    walk = walk.back_through(pair, last)
    return _feed_forward(pair, walk) if step == FEED_FORWARD else _attention(pair, step, walk)


def _feed_forward(pair: Pair, walk: Walk) -> Walk:
    walk = walk.at("feed_forward.hidden", ("feed_forward.down", "directions"))
    names = ("up",) if pair.after.feed_forward.gate is None else ("up", "gate")
    parts = [f"{FEED_FORWARD}.{name}" for name in names]
    cause = "feed_forward.hidden"
    return joined([walk.at(p, (cause, "activation")).back_through(pair, p) for p in parts])


def _attention(pair: Pair, step: str, walk: Walk) -> Walk:
    walk = walk.at(f"{step}.mixed", (f"{step}.output", "directions"))
    # Keys and values of cross-attention return to the other stack.
    names = ("query",) if step == CROSS else ("value", "key", "query")
    parts = [f"{step}.{name}" for name in names]
    return joined([walk.at(p, (step, "attention")).back_through(pair, p) for p in parts])


def _squares(pair: Pair, site: str) -> tuple[float, float] | None:
    before, after = (flow.forward.get(site) for flow in (pair.flow_before, pair.flow_after))
    return None if before is None or after is None else (before.mean_square, after.mean_square)
