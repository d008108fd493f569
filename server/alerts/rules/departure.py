"""The measured curves leave theory's prediction while it still speaks of these weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.alerts.rules.depth import Span, longest_run, number
from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Expected, Floats, Observation, StackFacts
from server.alerts.rules.running_stats import EARLY, RunningStats

FRESH_STEPS = 2  # weights older than this have learned: the prediction is context only
FACTOR = 1.5  # beyond the band and beyond this factor; the theory's own worst layer is near 1.15
GRADIENT_FACTOR = 2.0
CORRELATION_GAP = 0.2
LAYERS = 2  # neighbours that must agree: one layer may scatter by its draw of weights

ADVICE = Advice(
    "The model does not start as its weights and architecture say. Look at the first layer named "
    "for a scale, norm or dropout that the code applies and the description does not, or for "
    "weights loaded after the agent started."
)


@dataclass(frozen=True, slots=True)
class _Curve:
    site: str
    quantity: str
    measured: Floats
    predicted: Floats
    departs: NDArray[np.bool_]
    gap: Floats  # how far, 0 = on the prediction


def departs_from_prediction(observation: Observation, stats: RunningStats) -> list[Finding] | None:
    """Neighbouring layers lie outside the band in all of the first sampled steps.

    Judged once, as soon as the prediction is there and the first steps are past; None (not
    judged) at every other step, and for a run that starts from trained weights. The theory speaks
    of random weights: later, a departure is what learning does.
    """
    findings: list[Finding] = []
    judged = False
    for stack, facts in observation.stacks.items():
        expected = facts.at_start
        if expected is None or not facts.untrained:
            continue
        fresh = [early for early in stats.early if 0 <= early.step - expected.step <= FRESH_STEPS]
        if fresh and (len(fresh) == EARLY or observation.step > fresh[-1].step):
            judged = True
            findings += _departures(fresh, stack, facts, expected)
    return findings if judged else None


def _departures(
    fresh: list[Observation], stack: str, facts: StackFacts, expected: Expected
) -> list[Finding]:
    findings = []
    # Not strict: a run may change its layout between these steps.
    for curves in zip(*(_curves(early, stack, expected) for early in fresh), strict=False):
        always = np.logical_and.reduce([curve.departs for curve in curves])
        span = longest_run(always)
        if span is not None and len(span) >= LAYERS:
            findings.append(_finding(fresh[-1], stack, facts, curves[-1], span))
    return findings


def _curves(observation: Observation, stack: str, expected: Expected) -> list[_Curve]:
    variance = observation.series(stack, "stream", "variance")
    correlation = observation.series(stack, "stream", "correlation")
    gradient = observation.series(stack, "stream_gradient", "variance")
    curves = []
    if variance is not None and variance.shape == expected.variance.shape:
        curves.append(_variance(variance, expected))
    if correlation is not None and correlation.shape == expected.correlation.shape:
        curves.append(_correlation(correlation, expected))
    if gradient is not None and gradient.shape == expected.gradient.shape:
        curves.append(_gradient(gradient, expected))
    return curves


def _variance(measured: Floats, expected: Expected) -> _Curve:
    gap = _log_ratio(measured, expected.variance)
    outside = (measured < expected.variance_low) | (measured > expected.variance_high)
    departs = outside & (gap > np.log(FACTOR))
    return _Curve("stream", "variance", measured, expected.variance, departs, gap)


def _correlation(measured: Floats, expected: Expected) -> _Curve:
    gap = np.abs(measured - expected.correlation)
    outside = (measured < expected.correlation_low) | (measured > expected.correlation_high)
    departs = outside & (gap > CORRELATION_GAP)
    return _Curve("stream", "correlation", measured, expected.correlation, departs, gap)


def _gradient(measured: Floats, expected: Expected) -> _Curve:
    relative = measured / measured[-1]
    gap = _log_ratio(relative, expected.gradient)
    outside = (relative < expected.gradient_low) | (relative > expected.gradient_high)
    departs = outside & (gap > np.log(GRADIENT_FACTOR))
    return _Curve("stream_gradient", "variance", relative, expected.gradient, departs, gap)


def _log_ratio(measured: Floats, predicted: Floats) -> Floats:
    gap: Floats = np.abs(np.log(measured / predicted))
    return gap


def _finding(
    observation: Observation, stack: str, facts: StackFacts, curve: _Curve, span: Span
) -> Finding:
    inside = slice(span.first, span.last + 1)
    worst = span.first + int(np.nanargmax(curve.gap[inside]))
    measured, predicted = float(curve.measured[worst]), float(curve.predicted[worst])
    name = {"stream": "stream", "stream_gradient": "gradient"}[curve.site]
    return Finding(
        rule="departs_from_prediction",
        severity="warning",
        title=f"{name.capitalize()} {curve.quantity} is off its prediction at the start",
        message=(
            f"At step {observation.step} the {stack}'s {name} {curve.quantity} is outside the "
            f"predicted band in {span} of {facts.n_layers}: at layer {worst} it is "
            f"{number(measured)}, predicted at initialisation {number(predicted)}."
        ),
        advice=ADVICE,
        step=observation.step,
        stack=stack,
        site=curve.site,
        quantity=curve.quantity,
        first_layer=span.first,
        last_layer=span.last,
        measured=measured,
        predicted=predicted,
        unit="relative to the top" if curve.site == "stream_gradient" else curve.quantity,
        badness=float(curve.gap[worst]),
    )
