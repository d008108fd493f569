"""What the rules look at: one step's values, and theory's curves for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dslm import ModelSpec, Placement, Prediction, Stack, StackPrediction
from dslm.schemes import name_of_scheme
from wire import Health, Layout, Series, is_absent

Floats = NDArray[np.float64]

LOSS = "/loss/value"
NORM_MOVED = 1e-4  # variance of gains or biases that a few steps do not reach, and training does


@dataclass(frozen=True, slots=True)
class Expected:
    """Theory's curves for one stack, N+1 values each, from the weights of one step.

    Gradient variances are relative to the top. NaN where nothing is predicted. The bounds of
    `gradient` are NaN where the gradient that enters at the top was not measured.
    """

    step: int
    variance: Floats
    variance_low: Floats
    variance_high: Floats
    correlation: Floats
    correlation_low: Floats
    correlation_high: Floats
    gradient: Floats
    gradient_low: Floats
    gradient_high: Floats


@dataclass(frozen=True, slots=True)
class StackFacts:
    """One column of blocks: its shape and theory's curves for it.

    Attributes:
        n_layers: blocks.
        placement: where the norms stand; None where the blocks are not understood.
        beta: the smallest residual branch scale; 1 in an unscaled model.
        causal: whether a token sees only those before it.
        scheme: the known scheme that its residuals stand in, "" where none.
        untrained: whether the norms of the first revision are as they are initialised. Trained
            weights have structure, and theory speaks of random ones.
        expected: the curves from each revision of the weights, ascending by step; the
            first is *at initialisation*.
    """

    n_layers: int
    placement: Placement | None = None
    beta: float = 1.0
    causal: bool = True
    scheme: str = ""
    untrained: bool = True
    expected: tuple[Expected, ...] = ()

    @property
    def at_start(self) -> Expected | None:
        """The curves at initialisation."""
        return self.expected[0] if self.expected else None


@dataclass(frozen=True, slots=True)
class Observation:
    """One step of a run.

    Attributes:
        step: optimizer step.
        values: every series of the frame, by its key ``stack/site/quantity``.
        stacks: by name; a stack that is not described has its depth alone.
        health: the agent's counters, or None.
        absent: keys of scalars that this step does not have, such as a loss that was not given.
        sampled: whether the step's tensors were measured; else its scalars are all there is.
        rewound: whether the job went back before this step, and takes it again.
    """

    step: int
    values: Mapping[str, Floats]
    stacks: Mapping[str, StackFacts] = field(default_factory=dict)
    health: Health | None = None
    absent: frozenset[str] = frozenset()
    sampled: bool = True
    rewound: bool = False

    @property
    def has_loss(self) -> bool:
        """Whether a loss was given, be it finite or not."""
        return LOSS in self.values and LOSS not in self.absent

    @property
    def partial(self) -> bool:
        """Whether a burst measured some layers alone: of the others nothing follows."""
        return self.scalar("burst_layers") > 0

    def series(self, stack: str, site: str, quantity: str) -> Floats | None:
        """A series over depth, or None where the layout has none."""
        return self.values.get(f"{stack}/{site}/{quantity}")

    def relative_gradient(self, stack: str) -> Floats | None:
        """Gradient variance relative to the top's, (N+1,); None where the top's is 0 or unknown."""
        gradient = self.series(stack, "stream_gradient", "variance")
        if gradient is None or not len(gradient) or not 0 < gradient[-1] < np.inf:
            return None
        relative: Floats = gradient / gradient[-1]
        return relative

    def scalar(self, site: str) -> float:
        """A quantity of the complete model, such as ``"loss"``; NaN where it is unknown."""
        values = self.values.get(f"/{site}/value")
        return float(values[0]) if values is not None and len(values) else float("nan")


def observe(
    *,
    step: int,
    layout: Layout,
    values: NDArray[np.float32],
    stacks: Mapping[str, StackFacts],
    health: Health | None = None,
) -> Observation:
    """One frame as the rules see it; `values` is the frame's vector, (layout.size,).

    A stack that is not described is judged by its measured values alone.
    """
    wide = values.astype(np.float64)
    by_key = {key: wide[columns] for key, columns in layout.slices.items()}
    undescribed = {
        series.stack: StackFacts(n_layers=series.n - 1)
        for series in layout
        if (series.site, series.quantity) == ("stream", "variance")
    }
    absent = [
        series.key
        for series in layout
        if not series.stack and is_absent(values[layout.slices[series.key]]).all()
    ]
    return Observation(
        step=step,
        values=by_key,
        stacks={**undescribed, **stacks},
        health=health,
        absent=frozenset(absent),
    )


def observe_scalars(
    *, step: int, series: Sequence[Series], values: NDArray[np.float32]
) -> Observation:
    """The scalars of a step that was not sampled as the rules see them; `values` is (series,)."""
    keys = [each.key for each in series]
    wide = values.astype(np.float64)
    return Observation(
        step=step,
        values={key: wide[at : at + 1] for at, key in enumerate(keys)},
        absent=frozenset(
            key for key, absent in zip(keys, is_absent(values), strict=True) if absent
        ),
        sampled=False,
    )


def facts(spec: ModelSpec, predictions: Mapping[int, Prediction]) -> dict[str, StackFacts]:
    """What the rules need of a model, from its spec and the prediction of each revision's step.

    Cheap, but not free: make it once per revision, not per frame.
    """
    steps = sorted(predictions)
    return {
        name: StackFacts(
            n_layers=len(stack.blocks),
            placement=_placement(stack),
            beta=_beta(stack),
            causal=all(block.attention.causal for block in stack.blocks if block is not None),
            scheme=name_of_scheme(stack),
            untrained=_untrained(stack),
            expected=tuple(
                _expected(step, stack, predictions[step].stacks[name])
                for step in steps
                if name in predictions[step].stacks
            ),
        )
        for name, stack in spec.stacks.items()
    }


def _placement(stack: Stack) -> Placement | None:
    placements = {block.placement for block in stack.blocks if block is not None}
    return placements.pop() if len(placements) == 1 else None


def _beta(stack: Stack) -> float:
    scales = [
        residual.beta
        for block in stack.blocks
        if block is not None
        for residual in (block.attention_residual, block.feed_forward_residual)
    ]
    return min(scales, default=1.0)


def _untrained(stack: Stack) -> bool:
    norms = [
        norm
        for block in stack.blocks
        if block is not None
        for norm in (block.attention_norm, block.feed_forward_norm)
        if norm is not None
    ]
    return all(max(norm.gain_var, norm.bias_var) <= NORM_MOVED for norm in norms)


def _expected(step: int, stack: Stack, prediction: StackPrediction) -> Expected:
    forward, backward = prediction.forward, prediction.backward
    # Where the top's gradient is not measured, theory assumes independent tokens there: good
    # enough for a message, too weak for a judgement.
    measured = 1.0 if stack.top_gradient_kernel is not None else float("nan")
    return Expected(
        step=step,
        variance=forward.variance,
        variance_low=forward.variance_low,
        variance_high=forward.variance_high,
        correlation=forward.correlation,
        correlation_low=forward.correlation_low,
        correlation_high=forward.correlation_high,
        gradient=backward.variance,
        gradient_low=backward.variance_low * measured,
        gradient_high=backward.variance_high * measured,
    )
