"""Predictions of a stack with its blocks repeated: the depth at which a curve leaves its bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np

from dslm.diagnosis.deep_curves import DeepCurves, DeepModel
from dslm.diagnosis.precision import Bools
from dslm.kernels.coarsen import join_heads, merge_stack
from dslm.prediction import StackPrediction
from dslm.spec import Floats, ModelSpec, Stack

TIMES_DEEPER = 4  # a sweep goes to this multiple of the model's depth, within the next two bounds
SHALLOWEST_SEARCH = 96
DEEPEST_SEARCH = 1024
SINGLE_CELLS = 16  # positions with a cell each: under a causal mask the first ones differ most
CELLS = 32  # of a deep stack's kernels: a block's cost is at least quadratic in them
SWEEP_GROUPS = 3  # of heads with the same position bias, likewise
FULL_RANK_LOSS = 0.99  # token correlation from which on tokens count as one vector
SETTLED_WITHIN = 0.005  # change of the correlation over the second half of a sweep
MAX_NARROWINGS = 4  # predictions that the search for one depth may cost
ENOUGH = 0.03  # of a depth: a smaller step ends the search for it
DepthMargin = tuple[int, float]  # a depth, and the margin at the bottom of a stack of that depth


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a quantity leaves its bounds.

    Attributes:
        depth: the number of blocks after which, or for a gradient over which, it has left them;
            None where it stays within.
        searched: depth of the deepest stack predicted.
    """

    depth: int | None
    searched: int

    def within(self, n_layers: int) -> bool:
        """Return whether the bounds are left in a stack of `n_layers` blocks."""
        return self.depth is not None and self.depth <= n_layers


@dataclass(frozen=True, slots=True)
class DepthSweep:
    """Predictions of one stack at growing depths.

    Attributes:
        actual: the prediction at its actual depth.
        deeper: those of deeper stacks, which repeat its blocks, on 32 cells.
        gradient_at: returns the gradient's variances, float64[n+1], in a stack of n blocks.
    """

    actual: StackPrediction
    deeper: tuple[DeepCurves, ...]
    gradient_at: Callable[[int], Floats]

    @property
    def searched(self) -> int:
        """Depth of the deepest."""
        deepest = self.deeper[-1] if self.deeper else self.actual.forward
        return len(deepest.variance) - 1

    def stream(self, quantity: str) -> Floats:
        """Return a forward curve over all depths: the actual stack's, then the deepest one's.

        A layer's input does not depend on how many layers follow, so only the grid differs.
        """
        actual = np.asarray(getattr(self.actual.forward, quantity))
        if not self.deeper:
            return actual
        deepest = np.asarray(getattr(self.deeper[-1], quantity))
        return np.concatenate([actual, deepest[len(actual) :]])

    def forward_crossing(self, quantity: str, leaves: Callable[[Floats], Bools]) -> Crossing:
        """Return where a forward curve, `leaves` saying so for each layer, leaves its bounds."""
        with np.errstate(invalid="ignore"):
            outside = np.flatnonzero(leaves(self.stream(quantity)))
        return Crossing(int(outside[0]) if len(outside) else None, self.searched)

    def gradient_crossing(self, value: Callable[[Floats], Floats]) -> Crossing:
        """Return the depth over which a gradient leaves its bounds.

        `value` maps a stack's gradient variances relative to its top, float64[N+1], to a margin
        for each layer: positive where that layer and all above it are within bounds. In the
        actual stack the depth is counted from the top. Beyond it, the depth is searched between
        the two predictions on either side, by predicting stacks of depths in between.
        """
        curves = [self.actual.backward.variance, *(stack.gradient for stack in self.deeper)]
        with np.errstate(all="ignore"):
            outside_layers = np.flatnonzero(value(curves[0]) < 0)
            if len(outside_layers):
                return Crossing(max(len(curves[0]) - 1 - int(outside_layers[-1]), 0), self.searched)
            margins = [(len(curve) - 1, float(value(curve)[0])) for curve in curves]
            for inside, outside in pairwise(margins):
                if outside[1] < 0:
                    return Crossing(self._narrowed(inside, outside, value), self.searched)
        return Crossing(None, self.searched)

    def _narrowed(
        self, inside: DepthMargin, outside: DepthMargin, value: Callable[[Floats], Floats]
    ) -> int:
        """Return the depth where a margin passes 0, by regula falsi to 3 % of the depth."""
        for _ in range(MAX_NARROWINGS):
            n = _straight(inside, outside)
            if outside[0] - inside[0] <= 1 or n in (inside[0], outside[0]):
                break
            between = n, float(value(self.gradient_at(n))[0])
            inside, outside = (inside, between) if between[1] < 0 else (between, outside)
            if abs(_straight(inside, outside) - n) <= ENOUGH * n:
                break
        return _straight(inside, outside)


def _straight(inside: DepthMargin, outside: DepthMargin) -> int:
    """Return the depth at which a straight line between two margins passes 0, rounded up."""
    (n, above), (m, below) = inside, outside
    # a margin of -inf has no slope: bisect
    share = above / (above - below) if np.isfinite(below) else 0.5
    return int(np.ceil(n + share * (m - n)))


@dataclass(frozen=True, slots=True)
class CorrelationTrend:
    """How token correlation develops with depth.

    Attributes:
        limit: the correlation at the top of the deepest stack predicted.
        settled: whether it changed by less than 0.005 over the second half of that depth.
        rank_loss: where it passes 0.99, so that tokens are one vector up to 1 % of their energy.
    """

    limit: float
    settled: bool
    rank_loss: Crossing


def correlation_trend(sweep: DepthSweep) -> CorrelationTrend | None:
    """Return the correlation's trend; None where it is not predicted."""
    r = sweep.stream("correlation")
    if not np.isfinite(r[-1]):
        return None
    settled = abs(r[-1] - r[len(r) // 2]) < SETTLED_WITHIN
    loss = sweep.forward_crossing("correlation", lambda r: r > FULL_RANK_LOSS)
    return CorrelationTrend(float(r[-1]), bool(settled), loss)


def sweep_depths(
    spec: ModelSpec, predictions: Mapping[str, StackPrediction], until: int | None = None
) -> dict[str, DepthSweep]:
    """Return a sweep of each stack, doubling its depth while it is at most `until` blocks.

    `until` is by default four times the depth, at least 96 and at most 1,024. A model with a block
    that is not understood is not made deeper. `predictions` are those at the actual depth.
    """
    deepest = max((len(stack.blocks) for stack in spec.stacks.values()), default=0)
    complete = all(None not in stack.blocks and stack.blocks for stack in spec.stacks.values())
    if until is None:
        until = min(max(TIMES_DEEPER * deepest, SHALLOWEST_SEARCH), DEEPEST_SEARCH)
    model = DeepModel(
        replace(spec, stacks={name: coarse(stack) for name, stack in spec.stacks.items()})
    )
    deeper = []
    times = 2
    while complete and deepest and times * deepest <= until:
        deeper.append(model.curves(Fraction(times)))
        times *= 2
    return {
        name: DepthSweep(
            actual, tuple(curves[name] for curves in deeper), partial(model.gradient_at, name)
        )
        for name, actual in predictions.items()
    }


def coarse(stack: Stack) -> Stack:
    """Return `stack` on at most 32 cells: the first 16 unchanged, the others merged evenly.

    Heads with position biases are joined, too.
    """
    stack = join_heads(stack, SWEEP_GROUPS)
    n_cells = len(stack.input_kernel.cell_sizes)
    if n_cells <= CELLS:
        return stack
    late = np.linspace(SINGLE_CELLS, n_cells, CELLS - SINGLE_CELLS + 1)[:-1]
    starts = np.concatenate([np.arange(SINGLE_CELLS), np.round(late).astype(np.int64)])
    return merge_stack(stack, starts)
