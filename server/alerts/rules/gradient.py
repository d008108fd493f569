"""The gradient vanishes or explodes over depth, judged by what the architecture makes normal."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from server.alerts.rules.collapse import collapse_of
from server.alerts.rules.depth import Span, longest_run, number
from server.alerts.rules.depth_advice import CLIP, advice_for
from server.alerts.rules.finding import Finding
from server.alerts.rules.observation import Floats, Observation, StackFacts
from server.alerts.rules.running_stats import RunningStats

VANISHED = 1e-3  # of the top's gradient variance; healthy Pre-LN runs stayed above 0.7
# BERT on its first plateau, and DeepScaleLM, reach 2·10^-6 and come back.
VANISHED_POST = 1e-6
BEYOND = 100.0  # and at least this factor away from the prediction
EXPLODED_POST = 1e4  # times the top's gradient variance
EXPLODED_PRE = 1e6  # Pre-LN: a growing stream makes the lower gradient larger, harmlessly
NORM_FACTOR = 20.0  # times the median of the last norms
NORM_SAMPLES = 32


def vanished(facts: StackFacts) -> float:
    """The share of the top's gradient variance under which a stack of this kind gets none."""
    return VANISHED_POST if facts.placement == "post" else VANISHED


def vanishing_gradient(observation: Observation, _stats: RunningStats) -> list[Finding]:
    """Next to nothing of the top's gradient variance is left, and theory expects more."""
    findings = []
    for stack, facts in observation.stacks.items():
        relative = observation.relative_gradient(stack)
        # Where a collapse has cut it off, that is the alert.
        if relative is not None and collapse_of(observation, stack, facts) is None:
            span = longest_run(_below(relative, facts))
            if span is not None:
                worst = span.first + int(np.nanargmin(relative[span.first : span.last + 1]))
                extent = _Extent(stack, span.first, span.last, worst, float(relative[worst]))
                findings.append(_vanishing(observation, facts, extent))
    return findings


def exploding_gradient(observation: Observation, stats: RunningStats) -> list[Finding]:
    """The gradient grows towards the input beyond its kind, or its norm leaves its past."""
    findings = [
        finding
        for stack, facts in observation.stacks.items()
        if (finding := _exploding(observation, stack, facts)) is not None
    ]
    norm = _norm(observation, stats)
    return [*findings, norm] if norm is not None else findings


@dataclass(frozen=True, slots=True)
class _Extent:
    """The layers concerned, and the worst of them with its value relative to the top."""

    stack: str
    first: int
    last: int
    worst: int
    measured: float


def _below(relative: Floats, facts: StackFacts) -> NDArray[np.bool_]:
    expected = _expected(facts, len(relative))
    low = relative < vanished(facts)
    # Negated, so that a layer without a prediction (NaN) is still judged.
    return low if expected is None else low & ~(relative > expected / BEYOND)


def _expected(facts: StackFacts, length: int) -> Floats | None:
    start = facts.at_start
    return start.gradient if start is not None and len(start.gradient) == length else None


def _at(facts: StackFacts, layer: int, length: int) -> float | None:
    expected = _expected(facts, length)
    if expected is None or layer >= len(expected):
        return None
    value = float(expected[layer])
    return value if np.isfinite(value) else None


def _vanishing(observation: Observation, facts: StackFacts, extent: _Extent) -> Finding:
    predicted = _at(facts, extent.worst, facts.n_layers + 1)
    return Finding(
        rule="vanishing_gradient",
        severity="warning",
        title="The gradient vanishes on its way down",
        message=(
            f"At step {observation.step} the gradient of the {extent.stack}'s residual stream at "
            f"layer {extent.worst} has {number(extent.measured)} of the top's variance"
            f"{_where_predicted(predicted)}; {Span(extent.first, extent.last)} "
            f"receive{'s' * (extent.first == extent.last)} next to nothing. {_rate(facts, extent)}"
        ).rstrip(),
        advice=advice_for(facts),
        step=observation.step,
        stack=extent.stack,
        site="stream_gradient",
        quantity="variance",
        first_layer=extent.first,
        last_layer=extent.last,
        measured=extent.measured,
        predicted=predicted,
        unit="relative to the top",
        badness=float(min(40.0, -np.log10(max(extent.measured, 1e-40)))),
    )


def _exploding(observation: Observation, stack: str, facts: StackFacts) -> Finding | None:
    relative = observation.relative_gradient(stack)
    if relative is None or not np.isfinite(relative).any():
        return None
    worst = int(np.nanargmax(relative))
    value = float(relative[worst])
    predicted = _at(facts, worst, len(relative))
    post = facts.placement == "post"
    # Post-LN grows exponentially already at initialisation: predicted, and a fault all the same.
    normal = predicted is not None and value <= BEYOND * predicted and not post
    limit = EXPLODED_POST if post else EXPLODED_PRE
    span = longest_run(relative >= limit)
    if span is None or normal:
        return None
    extent = _Extent(stack, span.first, span.last, worst, value)
    return Finding(
        rule="exploding_gradient",
        severity="warning",
        title="The gradient explodes on its way down",
        message=(
            f"At step {observation.step} the gradient of the {stack}'s residual stream at layer "
            f"{worst} has {number(value)} times the top's variance{_where_predicted(predicted)}. "
            f"{_rate(facts, extent)}"
        ).rstrip(),
        advice=advice_for(facts),
        step=observation.step,
        stack=stack,
        site="stream_gradient",
        quantity="variance",
        first_layer=extent.first,
        last_layer=extent.last,
        measured=value,
        predicted=predicted,
        unit="relative to the top",
        badness=float(np.log10(value)) if np.isfinite(value) else 40.0,
    )


def _norm(observation: Observation, stats: RunningStats) -> Finding | None:
    norm, past = observation.scalar("gradient_norm"), stats.norms[-NORM_SAMPLES - 1 : -1]
    if not np.isfinite(norm) or len(past) < NORM_SAMPLES or norm <= NORM_FACTOR * median(past):
        return None
    return Finding(
        rule="exploding_gradient",
        severity="warning",
        title="The gradient norm has left its past",
        message=(
            f"At step {observation.step} the gradient norm is {number(norm)}: that is "
            f"{norm / max(median(past), 1e-30):.0f} times the median of the {NORM_SAMPLES} sampled "
            f"steps before.{stats.schedule.explains(observation.step)}"
        ),
        advice=CLIP,
        step=observation.step,
        site="gradient_norm",
        quantity="value",
        measured=norm,
        badness=norm,
    )


def _where_predicted(predicted: float | None) -> str:
    return "" if predicted is None else f" (predicted at initialisation: {number(predicted)})"


def _rate(facts: StackFacts, extent: _Extent) -> str:
    """The constant factor a layer by which Post-LN changes the gradient, and what it adds up to."""
    layers = facts.n_layers - extent.worst
    if facts.placement != "post" or not 0 < extent.measured < np.inf or layers < 1:
        return ""
    factor = np.float64(extent.measured) ** (1 / layers)  # overflows to Inf, where a float raises
    return (
        f"In Post-LN this factor compounds: {factor:.2f} per layer is "
        f"{number(float(factor**facts.n_layers))} over {facts.n_layers} layers."
    )
