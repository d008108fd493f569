"""Rank collapse: the tokens of a sequence become the same vector."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from server.alerts.rules.depth import Span, closeness, longest_run, number
from server.alerts.rules.depth_advice import advice_for
from server.alerts.rules.finding import Finding
from server.alerts.rules.gradient import relative_gradient
from server.alerts.rules.observation import Observation, StackFacts
from server.alerts.rules.running_stats import RunningStats

COLLAPSED = 1e-3  # 1 − correlation; healthy runs here came no nearer than 5·10^-3
SHARE = 0.25  # of the layers
NO_GRADIENT = 1e-3  # of the top's gradient variance: the collapse has cut training off


@dataclass(frozen=True, slots=True)
class Collapse:
    """Where the tokens of one stack have become one vector."""

    span: Span
    worst: int
    correlation: float
    predicted: float | None


def collapse_of(observation: Observation, stack: str, facts: StackFacts) -> Collapse | None:
    """The collapsed layers of a stack: at least a quarter of them, and two."""
    correlation = observation.series(stack, "stream", "correlation")
    if correlation is None or len(correlation) < 2:
        return None
    n_layers = len(correlation) - 1
    span = longest_run(1 - correlation <= COLLAPSED)
    if span is None or len(span) < max(2, ceil(SHARE * n_layers)):
        return None
    worst = span.first + int(np.nanargmax(correlation[span.first : span.last + 1]))
    return Collapse(span, worst, float(correlation[worst]), _predicted(facts, worst))


def rank_collapse(observation: Observation, _stats: RunningStats) -> list[Finding]:
    """Token correlation within 10^-3 of one over a quarter of the depth."""
    findings = []
    for stack, facts in observation.stacks.items():
        collapse = collapse_of(observation, stack, facts)
        if collapse is not None:
            findings.append(_finding(observation, stack, facts, collapse))
    return findings


def _finding(
    observation: Observation, stack: str, facts: StackFacts, collapse: Collapse
) -> Finding:
    gradient = relative_gradient(observation, stack)
    left = float(gradient[0]) if gradient is not None else float("nan")
    cut_off = left < NO_GRADIENT
    return Finding(
        rule="rank_collapse",
        severity="critical" if cut_off else "warning",
        title=f"Rank collapse in {collapse.span}",
        message=_message(observation, stack, facts, collapse)
        + (f" Only {number(left)} of the top's gradient variance reaches layer 0." * cut_off),
        advice=advice_for(facts),
        step=observation.step,
        stack=stack,
        site="stream",
        quantity="correlation",
        first_layer=collapse.span.first,
        last_layer=collapse.span.last,
        measured=collapse.correlation,
        predicted=collapse.predicted,
        unit="correlation",
        # More layers are worse, and so are powers of ten of gradient, where it is cut off.
        badness=len(collapse.span) + min(12.0, -np.log10(max(left, 1e-12))) * cut_off,
    )


def _message(observation: Observation, stack: str, facts: StackFacts, collapse: Collapse) -> str:
    predicted = (
        ""
        if collapse.predicted is None
        else f"; at initialisation theory predicts {closeness(collapse.predicted)} there"
    )
    return (
        f"At step {observation.step} the tokens of a sequence have become one vector in "
        f"{collapse.span} of the {stack}'s {facts.n_layers}: the correlation of the residual "
        f"stream at layer {collapse.worst} is {closeness(collapse.correlation)}{predicted}. Above "
        f"layer {collapse.span.first} the model cannot tell positions apart."
    )


def _predicted(facts: StackFacts, layer: int) -> float | None:
    expected = facts.at_start
    if expected is None or layer >= len(expected.correlation):
        return None
    value = float(expected.correlation[layer])
    return value if np.isfinite(value) else None
