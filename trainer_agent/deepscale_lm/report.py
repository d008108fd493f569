"""What DeepScaleLM changed, parameter by parameter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby


class DeepScaleError(ValueError):
    """DeepScaleLM cannot be applied to this model; says what stands in the way. Nothing changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter, or one slice of a fused one.

    Attributes:
        role: "query", "up", "norm", "bias", ... the same for every block.
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
class Report:
    """What `deepscale` did; printed as a table with one line a role.

    Attributes:
        lam, beta: amplitudes of skip and branch in every residual step.
        n_blocks: blocks of the stack.
        residual: how the scales were put in: "attributes" of the blocks, or "hooks".
        input_variance: variance of the stream into block 0, on the batch it was set with.
        changes: every parameter that was set.
        notes: what a user should know besides.
    """

    lam: float
    beta: float
    n_blocks: int
    residual: str
    input_variance: float
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = (
            f"DeepScaleLM on {self.n_blocks} blocks: x <- {self.lam:.4f} x + {self.beta:.4f} f(x), "
            f"set by {self.residual}; input variance {self.input_variance:.2f}"
        )
        columns = f"{'role':<12}{'tensors':>8}{'old std':>18}{'new std':>18}  first of them"
        return "\n".join([head, columns, *self._lines(), *self.notes])

    def _lines(self) -> Iterator[str]:
        by_role = sorted(self.changes, key=lambda c: c.role)
        for role, group in groupby(by_role, key=lambda c: c.role):
            changes = list(group)
            old = _span([c.old_std for c in changes])
            new = _span([c.new_std for c in changes])
            yield f"{role:<12}{len(changes):>8}{old:>18}{new:>18}  {changes[0].parameter}"


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}..{high}"
