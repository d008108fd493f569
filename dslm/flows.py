"""What was measured inside a block in the step that a `ModelSpec` describes.

A chain of measured mean squares leads through every branch of a block, in a pass of the training
job's own and its backward pass. `dslm.attribute` compares two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Site:
    """The moments of one tensor (batch, seq, features), over its real tokens.

    Attributes:
        mean_square: E[x²] over batch, tokens and features.
        mean: E[x] over the same.
        shared: mean square of the features' means over all tokens: `mean_square` times the share
            that lies in the direction common to all tokens.
    """

    mean_square: float
    mean: float = 0.0
    shared: float = 0.0

    @property
    def variance(self) -> float:
        """E[x²] - (E x)²."""
        return self.mean_square - self.mean**2


@dataclass(frozen=True, slots=True)
class BlockFlow:
    """Measured sites of one block; a site that was not seen is left out.

    Sites of the stream are ``"in"`` and ``"out"``, and for each residual step but the last
    ``"<step>.stream"``, what it leaves (steps are ``"attention"``, ``"cross"`` and
    ``"feed_forward"``). Sites of a step are:

    - ``"<step>.in"``: what its first dense maps read (the values' map, in attention).
    - ``"attention.query"``, ``"attention.key"``, ``"attention.value"``: what these put out.
    - ``"attention.average"``: the values, averaged with equal weights over the tokens that each
      token sees, forward alone.
    - ``"attention.mixed"``: what attention makes of the values, read by the output map.
    - ``"feed_forward.up"``, ``"feed_forward.gate"``, ``"feed_forward.hidden"``.
    - ``"<step>.output"``: what its last dense map puts out, before dropout.
    - ``"<step>.normed"``: that after a norm on the branch.
    - ``"<step>.sum"``: what a Post-LN step's norm reads.

    Attributes:
        forward: activations.
        backward: the gradients of the same tensors, up to a factor common to all. The gradient
            of a tensor is summed over all that reads it. ``"<step>.returned"`` is what
            the branch alone returns to the stream that it reads.
        missing: what could not be measured, and why.
    """

    forward: Mapping[str, Site] = field(default_factory=dict)
    backward: Mapping[str, Site] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
