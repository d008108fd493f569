"""The same stack, deeper: where a curve would leave its bounds if blocks went on repeating."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np

from dslm.diagnosis.precision import Bools
from dslm.kernels.grid import merge_cells, prepare
from dslm.model import predict
from dslm.prediction import StackPrediction
from dslm.spec import Floats, Kernel, ModelSpec

TIMES_DEEPER = 4
SHALLOWEST_SEARCH = 96
DEEPEST_SEARCH = 1024
SINGLE_CELLS = 16  # positions kept one by one; a causal mask changes most from one to the next
CELLS = 32
FULL_RANK_LOSS = 0.99
SETTLED_WITHIN = 0.005
MAX_NARROWINGS = 4
ENOUGH = 0.03  # of a depth: the last move of the search for it
DepthMargin = tuple[int, float]  # a depth, and the margin at the bottom of a stack of it


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a quantity leaves its bounds.

    Attributes:
        depth: blocks after which, or for a gradient over which, it has left; None if not found.
        searched: depth of the deepest stack looked at.
    """

    depth: int | None
    searched: int

    def within(self, n_layers: int) -> bool:
        """Return whether it is crossed in a stack of `n_layers` blocks."""
        return self.depth is not None and self.depth <= n_layers


@dataclass(frozen=True, slots=True)
class DepthSweep:
    """Predictions of one stack at growing depths, shallowest first; the first is the stack's own.

    The deeper ones repeat its blocks, on a grid of 32 cells of positions. `gradient_at` returns
    the gradient's variances in a stack of a depth between them.
    """

    stacks: tuple[StackPrediction, ...]
    gradient_at: Callable[[int], Floats]

    @property
    def searched(self) -> int:
        """Depth of the deepest."""
        return len(self.stacks[-1].forward.variance) - 1

    def stream(self, quantity: str) -> Floats:
        """Return a forward curve over all depths: the stack's own, then the deepest one's.

        What a layer sees does not depend on how many follow, so this is exact but for the grid.
        """
        actual = np.asarray(getattr(self.stacks[0].forward, quantity))
        deepest = np.asarray(getattr(self.stacks[-1].forward, quantity))
        return np.concatenate([actual, deepest[len(actual) :]])

    def forward_crossing(self, quantity: str, leaves: Callable[[Floats], Bools]) -> Crossing:
        """Return the first layer of a forward curve that `leaves` its bounds."""
        with np.errstate(invalid="ignore"):
            outside = np.flatnonzero(leaves(self.stream(quantity)))
        return Crossing(int(outside[0]) if len(outside) else None, self.searched)

    def gradient_crossing(self, value: Callable[[Floats], Floats]) -> Crossing:
        """Return the depth over which a gradient leaves its bounds.

        `value` takes a stack's gradient variances relative to its top, float64[N+1], to a number
        for each layer that is positive where that layer, and all above it, are in bounds. Inside
        the own stack the depth is counted from the top; beyond it a depth is looked for between
        the two predictions on either side, by predicting stacks of depths between them.
        """
        curves = [stack.backward.variance for stack in self.stacks]
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
        """Return the depth where a margin passes 0: regula falsi, to 3 % of the depth."""
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
    share = above / (above - below) if np.isfinite(below) else 0.5
    return int(np.ceil(n + share * (m - n)))


@dataclass(frozen=True, slots=True)
class CorrelationTrend:
    """Where token correlation goes with depth.

    Attributes:
        limit: at the deepest stack looked at.
        settled: whether it moved by less than 0.005 over the second half of that depth.
        rank_loss: where it passes 0.99: tokens have become one vector but for 1 %.
    """

    limit: float
    settled: bool
    rank_loss: Crossing


def correlation_trend(sweep: DepthSweep) -> CorrelationTrend | None:
    """Return where the correlation goes; None where it is not predicted."""
    r = sweep.stream("correlation")
    if not np.isfinite(r[-1]):
        return None
    settled = abs(r[-1] - r[len(r) // 2]) < SETTLED_WITHIN
    loss = sweep.forward_crossing("correlation", lambda r: r > FULL_RANK_LOSS)
    return CorrelationTrend(float(r[-1]), bool(settled), loss)


def sweep_depths(
    spec: ModelSpec, predictions: Mapping[str, StackPrediction], until: int | None = None
) -> dict[str, DepthSweep]:
    """Return each stack's ladder: twice as deep, again and again, up to `until` blocks.

    By default four times the depth, at least 96 and at most 1,024. A model with a block that is
    not understood is not made deeper.
    """
    by_depth = {name: [stack] for name, stack in predictions.items()}
    deepest = max((len(stack.blocks) for stack in spec.stacks.values()), default=0)
    complete = all(None not in stack.blocks and stack.blocks for stack in spec.stacks.values())
    if until is None:
        until = min(max(TIMES_DEEPER * deepest, SHALLOWEST_SEARCH), DEEPEST_SEARCH)
    times = 2
    while complete and deepest and times * deepest <= until:
        for name, stack in predict(_deeper(spec, Fraction(times))).stacks.items():
            by_depth[name].append(stack)
        times *= 2
    return {
        name: DepthSweep(tuple(stacks), _gradients(spec, name)) for name, stacks in by_depth.items()
    }


def _gradients(spec: ModelSpec, name: str) -> Callable[[int], Floats]:
    """Return a function of a depth: the gradient's variances of that stack, at that depth."""

    @cache
    def gradient_at(n_layers: int) -> Floats:
        deeper = _deeper(spec, Fraction(n_layers, len(spec.stacks[name].blocks)))
        return predict(deeper).stacks[name].backward.variance

    return gradient_at


def _deeper(spec: ModelSpec, times: Fraction) -> ModelSpec:
    """Return every stack with `times` as many blocks, repeated in their order."""
    stacks = {}
    for name, stack in spec.stacks.items():
        n, top = len(stack.blocks), stack.top_gradient_kernel
        stacks[name] = replace(
            stack,
            blocks=tuple(stack.blocks[i % n] for i in range(max(round(n * times), 1))),
            input_kernel=coarse(stack.input_kernel),
            top_gradient_kernel=None if top is None else coarse(top),
        )
    return replace(spec, stacks=stacks)


def coarse(kernel: Kernel) -> Kernel:
    """Return `kernel` on at most 32 cells: the first 16 as they are, the others merged evenly."""
    n_cells = len(kernel.cell_sizes)
    if n_cells <= CELLS:
        return kernel
    late = np.linspace(SINGLE_CELLS, n_cells, CELLS - SINGLE_CELLS + 1)[:-1]
    starts = np.concatenate([np.arange(SINGLE_CELLS), np.round(late).astype(np.int64)])
    return merge_cells(prepare(kernel), starts)
