"""The variance of the stream behind a block, and of what its branches add, as changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dslm.attribution.change import (
    Cause,
    Change,
    UndefinedError,
    aligned_sum,
    appearing,
    measured,
    product,
    ratio,
)
from dslm.attribution.walk import (
    FEED_FORWARD,
    Pair,
    Walk,
    after_norm,
    last_map,
    norm_name,
)
from dslm.flows import Site

READS_STREAM = ("post", "branch")  # placements whose branches read the stream without a norm
Sites = Mapping[str, Site]


@dataclass(frozen=True, slots=True)
class Forward:
    """One block forward.

    Attributes:
        out: the variance of the stream behind it.
        branches: of what each step adds to the stream, before its factor; without those that
            `unexplained` gives a reason for.
        unexplained: by step, why it has no ratio.
    """

    out: Change
    branches: Mapping[str, Change] = field(default_factory=dict)
    unexplained: Mapping[str, str] = field(default_factory=dict)


def stream_in(pair: Pair, cause: Cause) -> Change:
    """The variance of the stream that enters a block, put down to `cause`."""
    return ratio(*_variances(pair, "in"), cause)


def forward(pair: Pair, entering: Change) -> Forward:
    """The block's forward change, `entering` being the variance of the stream that enters it.

    Raises UndefinedError where the stream itself has no ratio.
    """
    sums = _Sums(pair, entering)
    for step in pair.steps:
        sums.add(step)
    return Forward(sums.stream, sums.branches, sums.unexplained)


class _Sums:
    """A block's residual sums, step by step."""

    def __init__(self, pair: Pair, entering: Change) -> None:
        self.branches: dict[str, Change] = {}
        self.unexplained: dict[str, str] = {}
        self.stream = entering
        self._pair, self._addends, self._is_complete = pair, [entering], True

    def add(self, step: str) -> None:
        """Add a step's branch, and end its sum where that is measured."""
        pair, placement = self._pair, self._pair.after.placement
        addend, end = self._addend(step), _end_of(pair, step)
        if placement == "post":
            self.stream = _normed_sum(pair, step, end)
            return
        self._addends = [product(pair.skip(step), x) for x in self._addends]
        if addend is not None:
            self._addends.append(product(pair.branch_factor(step), addend))
        self._is_complete &= addend is not None
        is_last = step == pair.steps[-1]
        if end is None or (placement == "parallel" and not is_last):
            return
        # Where a branch is not known, alignment cannot be told from it.
        cause: Cause = ("stream", "alignment" if self._is_complete else "remainder")
        self.stream = aligned_sum(self._addends, *end, cause)
        self._addends, self._is_complete = [self.stream], True

    def _addend(self, step: str) -> Change | None:
        try:
            branch = _branch(self._pair, step, _read(self._pair, step, self.stream))
        except UndefinedError as error:
            self.unexplained[step] = str(error)
            return _appearing(self._pair, step)
        self.branches[step] = branch
        return branch


def _end_of(pair: Pair, step: str) -> tuple[float, float] | None:
    """Variances of the stream that a step leaves; None where its own step is not measured."""
    if step == pair.steps[-1]:
        return _variances(pair, "out")
    site = f"{step}.stream"
    is_measured = all(site in flow.forward for flow in (pair.flow_before, pair.flow_after))
    return _variances(pair, site) if is_measured else None


def _read(pair: Pair, step: str, stream: Change) -> Change | None:
    """The mean square of the stream that a branch reads without a norm; None behind one."""
    if pair.after.placement not in READS_STREAM and pair.norms(step) is not None:
        return None
    site = "in" if step == pair.steps[0] else f"{pair.steps[pair.steps.index(step) - 1]}.stream"
    before, after = (values.get(site) for values in _values(pair))
    if before is None or after is None:
        raise UndefinedError(f"{step}: what it reads was not measured")
    return measured(stream, before, after, ("stream", "remainder"))


def _normed_sum(pair: Pair, step: str, end: tuple[float, float] | None) -> Change:
    """The stream behind a Post-LN step: whatever the sum was, the norm sets its scale."""
    norms = pair.norms(step)
    assert norms is not None
    predicted = after_norm(norms, norm_name(step))
    return predicted if end is None else measured(predicted, *end, (norm_name(step), "directions"))


def _branch(pair: Pair, step: str, read: Change | None) -> Change:
    """The variance of what a step adds, before its factor."""
    walk = Walk(_values(pair), read if read is not None else Change(1.0, 1.0))
    norms = pair.norms(step)
    is_normed = read is None
    if is_normed and norms is not None:
        walk = walk.through(after_norm(norms, norm_name(step)))
        walk = walk.at_if_seen(f"{step}.in", (norm_name(step), "directions"))
    if step == "cross":  # keys and values are the other stack's
        walk = _other_stack(pair)
    walk = _feed_forward(pair, walk) if step == FEED_FORWARD else _attention(pair, step, walk)
    end, last = f"{step}.output", last_map(step)
    walk = walk.forward_through(pair, last).at(end, (last, "directions"))
    is_branch = pair.after.placement == "branch"
    out_norms = norms if is_branch else pair.norms(step, out=True)
    if out_norms is not None:
        name, end = norm_name(step, out=not is_branch), f"{step}.normed"
        walk = Walk(walk.values, after_norm(out_norms, name)).at(end, (name, "directions"))
    if walk.has_gap:
        raise UndefinedError(f"{step}: what it adds was not measured")
    return measured(walk.x, *_variances(pair, end), (last, "remainder"))


def _attention(pair: Pair, step: str, walk: Walk) -> Walk:
    value = f"{step}.value"
    walk = walk.forward_through(pair, value).at(value, (value, "directions"))
    walk = walk.at_if_seen(f"{step}.average", (f"{step}.average", "directions"))
    return walk.at(f"{step}.mixed", (step, "attention"))


def _feed_forward(pair: Pair, walk: Walk) -> Walk:
    names = ("up",) if pair.after.feed_forward.gate is None else ("up", "gate")
    parts = [f"{FEED_FORWARD}.{name}" for name in names]
    maps = [walk.forward_through(pair, part).at(part, (part, "directions")) for part in parts]
    hidden = maps[0]
    for other in maps[1:]:
        hidden = Walk(walk.values, product(hidden.x, other.x), hidden.has_gap or other.has_gap)
    site = f"{FEED_FORWARD}.hidden"
    return hidden.at(site, (site, "activation"))


def _other_stack(pair: Pair) -> Walk:
    """What cross-attention's keys and values are read from."""
    walk = Walk(_values(pair), Change(1.0, 1.0), has_gap=True)
    read = walk.pair("cross.in")
    if read is None:
        return walk
    return Walk(walk.values, ratio(*read, ("cross.value", "entering")))


def _appearing(pair: Pair, step: str) -> Change | None:
    """What a step adds where that is 0 at one moment, as behind a matrix that starts at 0."""
    try:
        before, after = _variances(pair, f"{step}.output")
    except UndefinedError:
        return None
    if (before == 0) == (after == 0):
        return None
    is_born = min(linear.weight_var for linear in pair.linears(last_map(step))) == 0
    return appearing(before, after, (last_map(step), "weights" if is_born else "remainder"))


def _values(pair: Pair) -> tuple[Mapping[str, float], Mapping[str, float]]:
    before, after = (
        {name: site.mean_square for name, site in flow.forward.items()}
        for flow in (pair.flow_before, pair.flow_after)
    )
    return before, after


def _variances(pair: Pair, site: str) -> tuple[float, float]:
    sites = [flow.forward.get(site) for flow in (pair.flow_before, pair.flow_after)]
    if sites[0] is None or sites[1] is None:
        raise UndefinedError(f"{site}: it was not measured")
    return sites[0].variance, sites[1].variance
