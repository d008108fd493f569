"""Rank collapse: the tokens of a sequence become the same vector."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from server.alerts.rules.depth import Span, closeness, longest_run, number
from server.alerts.rules.depth_advice import advice_for
from server.alerts.rules.finding import Finding
from server.alerts.rules.inputs import enter_alike
from server.alerts.rules.observation import Observation, StackFacts
from server.alerts.rules.running_stats import RunningStats

COLLAPSED = 1e-3  # 1 − correlation
SHARE = 0.5  # of the layers; healthy Llamas pass 0.47 of them while they learn words' frequencies
# Of the top's gradient variance: healthy Pre-LN models whose tokens come so close keep 0.8 of it;
# Post-LN models that fail are below within thirty steps, and below a tenth of it soon after.
CUT_OFF, NOTHING = 1e-4, 1e-5


@dataclass(frozen=True, slots=True)
class Collapse:
    """Where the tokens of one stack have become one vector.

    Attributes:
        span: the layers.
        worst: the one whose tokens are most alike.
        correlation: of them there.
        predicted: the same at initialisation, or None.
        gradient: the least that a layer receives of the top's gradient variance.
    """

    span: Span
    worst: int
    correlation: float
    predicted: float | None
    gradient: float


def collapse_of(observation: Observation, stack: str, facts: StackFacts) -> Collapse | None:
    """The collapsed layers of a stack: at least half of them, and a gradient that they cut off.

    Tokens that are alike are no illness by themselves: a model that learns how frequent words are
    adds one direction to all of them, in a third of the layers and more, and trains through it.
    Tokens that enter alike were made so by the data (`inputs`), and are no collapse either.
    """
    correlation = observation.series(stack, "stream", "correlation")
    if correlation is None or len(correlation) < 2 or enter_alike(float(correlation[0])):
        return None
    n_layers = len(correlation) - 1
    span = longest_run(1 - correlation <= COLLAPSED)
    if span is None or len(span) < max(2, ceil(SHARE * n_layers)):
        return None
    gradient = observation.relative_gradient(stack)
    if gradient is None or np.isnan(gradient).all():
        return None
    lowest = float(np.nanmin(gradient))
    if lowest >= CUT_OFF:
        return None
    worst = span.first + int(np.nanargmax(correlation[span.first : span.last + 1]))
    return Collapse(span, worst, float(correlation[worst]), _predicted(facts, worst), lowest)


def rank_collapse(observation: Observation, _stats: RunningStats) -> list[Finding]:
    """Token correlation within 10^-3 of one over half of the depth, and no gradient below."""
    findings = []
    for stack, facts in observation.stacks.items():
        collapse = collapse_of(observation, stack, facts)
        if collapse is not None:
            findings.append(_finding(observation, stack, facts, collapse))
    return findings


def _finding(
    observation: Observation, stack: str, facts: StackFacts, collapse: Collapse
) -> Finding:
    # An encoder may be dead beside a decoder that learns without it.
    makes_loss = stack == max(observation.stacks, key=lambda name: name == "decoder")
    return Finding(
        rule="rank_collapse",
        severity="critical" if makes_loss and collapse.gradient < NOTHING else "warning",
        title=f"Rank collapse in {collapse.span}",
        message=_message(observation, stack, facts, collapse),
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
        # More layers are worse, and so are powers of ten of gradient.
        badness=len(collapse.span) + min(12.0, -np.log10(max(collapse.gradient, 1e-12))),
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
        f"layer {collapse.span.first} the model cannot tell positions apart, and no more than "
        f"{number(collapse.gradient)} of the top's gradient variance reaches the layers below."
    )


def _predicted(facts: StackFacts, layer: int) -> float | None:
    expected = facts.at_start
    if expected is None or layer >= len(expected.correlation):
        return None
    value = float(expected.correlation[layer])
    return value if np.isfinite(value) else None
