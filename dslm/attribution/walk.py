"""A quantity carried along the measured sites of a branch, link by link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dslm.attribution.change import (
    Cause,
    Change,
    constant,
    inverse,
    measured,
    product,
    ratio,
    total,
    with_bias,
)
from dslm.flows import BlockFlow
from dslm.spec import Block, CrossAttention, Linear, Norm, Residual

ATTENTION, CROSS, FEED_FORWARD = "attention", "cross", "feed_forward"
Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """One block, described at two moments."""

    before: Block
    after: Block
    flow_before: BlockFlow
    flow_after: BlockFlow

    @property
    def steps(self) -> tuple[str, ...]:
        """The residual steps in order."""
        cross = (CROSS,) if self.after.cross is not None else ()
        return (ATTENTION, *cross, FEED_FORWARD)

    def norms(self, step: str, *, out: bool = False) -> tuple[Norm, Norm] | None:
        """A step's norm, or its second one where there is one."""
        before, after = (_norm_of(block, step, out=out) for block in (self.before, self.after))
        return None if before is None or after is None else (before, after)

    def residuals(self, step: str) -> tuple[Residual, Residual]:
        """A step's factors."""
        return _residual_of(self.before, step), _residual_of(self.after, step)

    def linears(self, part: str) -> tuple[Linear, Linear]:
        """The dense map ``"attention.query"``, ``"feed_forward.up"`` and so on."""
        return _linear_of(self.before, part), _linear_of(self.after, part)

    def skip(self, step: str) -> Change:
        """What the stream's variance is multiplied by in a step's sum."""
        before, after = self.residuals(step)
        return constant(before.lam**2, after.lam**2)

    def branch_factor(self, step: str) -> Change:
        """What the branch's variance is multiplied by, dropout included."""
        before, after = self.residuals(step)
        return constant(before.beta**2 / (1 - before.p_drop), after.beta**2 / (1 - after.p_drop))


@dataclass(frozen=True, slots=True)
class Walk:
    """The quantity at a place of a branch.

    Attributes:
        values: measured mean squares by site, at both moments.
        x: the quantity, as far as the measured sites explain it.
        has_gap: whether a link before this place was not measured, so that the next measured
            site cannot say which link makes the difference.
    """

    values: tuple[Values, Values]
    x: Change
    has_gap: bool = False

    def through(self, factor: Change) -> Walk:
        """After a factor that is known from the weights."""
        return replace(self, x=product(self.x, factor))

    def at(self, site: str, cause: Cause) -> Walk:
        """At a measured site: what weights do not explain is put down to `cause`."""
        pair = self.pair(site)
        if pair is None:
            return replace(self, has_gap=True)
        cause = (cause[0], "remainder") if self.has_gap else cause
        return replace(self, x=measured(self.x, *pair, cause), has_gap=False)

    def at_if_seen(self, site: str, cause: Cause) -> Walk:
        """The same, for a site between two others that need not be measured."""
        return self if self.pair(site) is None or self.has_gap else self.at(site, cause)

    def unknown(self) -> Walk:
        """After a link that was not measured."""
        return replace(self, has_gap=True)

    def forward_through(self, pair: Pair, part: str) -> Walk:
        """Forward through a dense map: d_in·E[w²], and its bias."""
        before, after = pair.linears(part)
        cause: Cause = (part, "weights")
        size = ratio(before.d_in * before.weight_var, after.d_in * after.weight_var, cause)
        x = with_bias(product(self.x, size), before.bias_var, after.bias_var, cause)
        return replace(self, x=x)

    def back_through(self, pair: Pair, part: str) -> Walk:
        """Backward through a dense map: d_out·E[w²]."""
        before, after = pair.linears(part)
        size = before.d_out * before.weight_var, after.d_out * after.weight_var
        return self.through(ratio(*size, (part, "weights")))

    def pair(self, site: str) -> tuple[float, float] | None:
        """The site's mean squares at both moments, None where one was not measured."""
        before, after = (values.get(site) for values in self.values)
        return None if before is None or after is None else (before, after)


def joined(walks: list[Walk]) -> Walk:
    """What several maps bring to one tensor, as independent addends."""
    return replace(
        walks[0], x=total(walk.x for walk in walks), has_gap=any(w.has_gap for w in walks)
    )


def after_norm(norms: tuple[Norm, Norm], name: str) -> Change:
    """E[x²] after a norm whose gain reads unit directions at random."""
    before, after = norms
    cause: Cause = (name, "norms")
    gain = ratio(_gain(before), _gain(after), cause)
    return with_bias(gain, before.bias_var, after.bias_var, cause)


def back_through_norm(
    norms: tuple[Norm, Norm], name: str, read: tuple[float, float] | None
) -> Change | None:
    """What a norm multiplies a gradient's E[g²] by; None where its input was not measured."""
    if read is None:
        return None
    before, after = norms
    gain = ratio(_gain(before), _gain(after), (name, "norms"))
    return product(gain, inverse(ratio(*read, (name, "norm_inputs"))))


def _gain(norm: Norm) -> float:
    return norm.gain_mean**2 + norm.gain_var


def last_map(step: str) -> str:
    """The dense map that a step's branch ends in."""
    return f"{step}.down" if step == FEED_FORWARD else f"{step}.output"


def norm_name(step: str, *, out: bool = False) -> str:
    """How a step's norm is called among the parts."""
    return f"{step}_out_norm" if out else f"{step}_norm"


def _norm_of(block: Block, step: str, *, out: bool) -> Norm | None:
    if step == CROSS:
        cross = _cross(block)
        return cross.out_norm if out else cross.norm
    if step == ATTENTION:
        return block.attention_out_norm if out else block.attention_norm
    return block.feed_forward_out_norm if out else block.feed_forward_norm


def _residual_of(block: Block, step: str) -> Residual:
    if step == CROSS:
        return _cross(block).residual
    return block.attention_residual if step == ATTENTION else block.feed_forward_residual


def _linear_of(block: Block, part: str) -> Linear:
    step, _, name = part.partition(".")
    if step == FEED_FORWARD:
        holder: object = block.feed_forward
    else:
        holder = block.attention if step == ATTENTION else _cross(block).attention
    linear = getattr(holder, name)
    assert isinstance(linear, Linear), part
    return linear


def _cross(block: Block) -> CrossAttention:
    assert block.cross is not None
    return block.cross
