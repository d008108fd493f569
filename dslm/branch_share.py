"""How much of a residual step is its branch, by depth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dslm.errors import SpecError

Count = Literal["blocks", "sublayers"]
MAX_BETA_SQUARED = 0.5  # below 4 blocks 2/N would let the branch outweigh the stream


@dataclass(frozen=True, slots=True)
class BranchShare:
    r"""The rule :math:`\beta^2 = k/N^\alpha`, :math:`\lambda^2 = 1 - \beta^2`.

    Attributes:
        k, alpha: of the rule.
        count: what N counts. ``"sublayers"``: residual steps, each branch's own, as the authors'
            code does. ``"blocks"``: blocks, and a block of other than two branches gets what two
            would get together: twice as much at alpha = 1.

    Source: arXiv 2403.09635, §4, k = 2, alpha = 1; other orders and the limit are this project's.
    """

    k: float = 2.0
    alpha: float = 1.0
    count: Count = "sublayers"

    def __post_init__(self) -> None:
        """Raise `SpecError` where the rule is none."""
        if not 0 < self.k < math.inf:
            raise SpecError("k", f"give a positive number, not {self.k!r}")
        if not 0 <= self.alpha < math.inf:
            raise SpecError("alpha", f"give a number from 0 up, not {self.alpha!r}")
        if self.count not in get_args(Count):
            raise SpecError("count", f"use one of {', '.join(get_args(Count))}")

    def amplitudes(
        self, n_blocks: int, n_branches: int = 2, *, parallel: bool = False
    ) -> tuple[float, float]:
        r"""Return (lam, beta) of every step of a stack.

        Parallel branches join the stream at once, so :math:`\lambda^2 = 1 - n\beta^2` there. With
        few blocks a branch would outweigh the skip; there both get equal shares (half each; in
        parallel a third).

        Args:
            n_blocks: the stack's blocks.
            n_branches: branches in a block.
            parallel: whether a block's branches read the same stream and are added at once.

        Raises:
            SpecError: if there is no block or no branch.
        """
        if n_blocks < 1:
            raise SpecError("blocks", "give at least one block")
        if n_branches < 1:
            raise SpecError("n_branches", "give at least one branch")
        if self.count == "sublayers":
            beta_squared = self.k / (n_blocks * n_branches) ** self.alpha
        else:
            beta_squared = 2 * self.k / n_branches / n_blocks**self.alpha
        if parallel:
            beta_squared = min(beta_squared, 1 / (n_branches + 1))
            return math.sqrt(1 - n_branches * beta_squared), math.sqrt(beta_squared)
        beta_squared = min(beta_squared, MAX_BETA_SQUARED)
        return math.sqrt(1 - beta_squared), math.sqrt(beta_squared)


def residual_amplitudes(
    n_blocks: int,
    n_branches: int = 2,
    *,
    parallel: bool = False,
    k: float = 2.0,
    alpha: float = 1.0,
    count: Count = "sublayers",
) -> tuple[float, float]:
    r"""Return (lam, beta): :math:`\beta^2 = k/N^\alpha`, :math:`\lambda^2 = 1 - \beta^2`.

    `BranchShare` says what the arguments mean; so does `BranchShare.amplitudes`.

    Raises:
        SpecError: naming the argument that cannot be.
    """
    share = BranchShare(k, alpha, count)
    return share.amplitudes(n_blocks, n_branches, parallel=parallel)
