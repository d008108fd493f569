"""What DeepScaleLM changed, parameter by parameter and residual step by residual step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from math import isfinite
from typing import Any


class DeepScaleError(ValueError):
    """DeepScaleLM cannot be applied to this model; says what stands in the way. Nothing changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter, or one slice of a fused one.

    Attributes:
        role: "query", "up", "norm gain", "cross value", ... the same for every block.
        parameter: its name, as in ``model.named_parameters()``.
        old_std, new_std: root mean square of its entries before and after.
    """

    role: str
    parameter: str
    old_std: float
    new_std: float

    @property
    def scale(self) -> float:
        """new_std / old_std; inf for a parameter that was zero."""
        if self.old_std == 0.0:
            return 1.0 if self.new_std == 0.0 else float("inf")
        return self.new_std / self.old_std


@dataclass(frozen=True, slots=True)
class ResidualChange:
    """One residual step, x ← lam·x + beta·f(x).

    Attributes:
        block: path of the block.
        branch: "attention", "cross" or "feed_forward".
        old_lam, old_beta, new_lam, new_beta: its amplitudes before and after. Parallel branches
            share a skip, whose factor is the attention's `lam`.
    """

    block: str
    branch: str
    old_lam: float
    old_beta: float
    new_lam: float
    new_beta: float


@dataclass(frozen=True, slots=True)
class StackReport:
    """One stack of blocks.

    Attributes:
        name: ``"encoder"`` or ``"decoder"``.
        lam, beta: amplitudes of skip and branch in every residual step; in the balanced form
            those of even shares, and `Report.residuals` has each block's own.
        n_blocks: its blocks.
        residual: how the scales were put in: "attributes" of the blocks, "hooks", or both.
        input_variance: of the stream into block 0, on the batch it was set with.
    """

    name: str
    lam: float
    beta: float
    n_blocks: int
    residual: str
    input_variance: float


@dataclass(frozen=True, slots=True)
class Gain:
    """What the theory expects of a stack: largest over smallest variance over depth.

    Attributes:
        stack: its name.
        replaced: the known scheme that it stood in, "" where none.
        stream: of the residual stream, before and after.
        gradient: of the gradient with respect to it, before and after.
    """

    stack: str
    replaced: str
    stream: tuple[float, float]
    gradient: tuple[float, float]

    def __str__(self) -> str:
        spreads = [
            f"{name} ×{_number(old)} → ×{_number(new)}"
            for name, (old, new) in (("stream", self.stream), ("gradient", self.gradient))
        ]
        replaced = f"; replaces {self.replaced}" if self.replaced else ""
        return f"{self.stack}, largest over smallest variance: {', '.join(spreads)}{replaced}"


@dataclass(frozen=True, slots=True)
class Report:
    """What `deepscale` did; printed as a table with one line a role, or as data by `as_dict`.

    Attributes:
        form: which form set the scales, as in `dslm.deepscale`.
        stacks: one entry a stack, encoder before decoder.
        changes: every parameter that was set.
        residuals: every residual step.
        notes: what a user should know besides.
        expected: what the theory expects of each stack, before and after.
    """

    form: str
    stacks: tuple[StackReport, ...]
    changes: tuple[Change, ...]
    residuals: tuple[ResidualChange, ...] = ()
    notes: tuple[str, ...] = ()
    expected: tuple[Gain, ...] = ()

    @property
    def lam(self) -> float:
        """Amplitude of the skip, of the last stack."""
        return self.stacks[-1].lam

    @property
    def beta(self) -> float:
        """Amplitude of the branch, of the last stack."""
        return self.stacks[-1].beta

    @property
    def n_blocks(self) -> int:
        """Blocks of the last stack."""
        return self.stacks[-1].n_blocks

    @property
    def residual(self) -> str:
        """How the last stack's scales were put in."""
        return self.stacks[-1].residual

    @property
    def input_variance(self) -> float:
        """Variance of the stream into the last stack's block 0."""
        return self.stacks[-1].input_variance

    def as_dict(self) -> dict[str, Any]:
        """The same as lists, dicts, strings and numbers, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        columns = f"{'role':<13}{'tensors':>8}{'old std':>18}{'new std':>18}  first of them"
        heads = [f"form: {self.form}", *map(_headline, self.stacks), *map(str, self.expected)]
        return "\n".join([*heads, columns, *self._lines(), *self._steps(), *self.notes])

    def _lines(self) -> Iterator[str]:
        by_role = sorted(self.changes, key=lambda c: c.role)
        for role, group in groupby(by_role, key=lambda c: c.role):
            changes = list(group)
            old = _span([c.old_std for c in changes])
            new = _span([c.new_std for c in changes])
            yield f"{role:<13}{len(changes):>8}{old:>18}{new:>18}  {changes[0].parameter}"

    def _steps(self) -> Iterator[str]:
        by_branch = sorted(self.residuals, key=lambda c: c.branch)
        for branch, group in groupby(by_branch, key=lambda c: c.branch):
            steps = list(group)
            old = _span([c.old_beta for c in steps])
            new = _span([c.new_beta for c in steps])
            yield f"{'beta':<13}{len(steps):>8}{old:>18}{new:>18}  {branch} branch"


def _headline(stack: StackReport) -> str:
    return (
        f"{stack.name}: {stack.n_blocks} blocks: x <- {stack.lam:.4f} x + {stack.beta:.4f} f(x), "
        f"set by {stack.residual}; input variance {stack.input_variance:.2f}"
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if isfinite(value) else "∞"


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}..{high}"
