"""The loss is flat, and the layers show the cause."""

from __future__ import annotations

from statistics import median

from server.alerts.rules.collapse import Collapse, collapse_of
from server.alerts.rules.depth import closeness, number
from server.alerts.rules.depth_advice import advice_for
from server.alerts.rules.finding import Finding
from server.alerts.rules.gradient import vanished
from server.alerts.rules.observation import Observation, StackFacts
from server.alerts.rules.running_stats import LOSSES, RunningStats

FLAT = 0.03  # fall of the median from the first half of the window to the second, of the first


def not_learning(observation: Observation, stats: RunningStats) -> list[Finding]:
    """A flat loss together with its cause: a collapsed stream or a gradient that never arrives.

    A flat loss alone is how healthy training ends, so that it is no finding without a cause.
    """
    fall = _fall(stats.losses)  # None until the window is full
    if fall is None or fall > FLAT:
        return []
    findings = []
    for stack, facts in observation.stacks.items():
        collapse = collapse_of(observation, stack, facts)
        gradient = observation.relative_gradient(stack)
        left = float(gradient[0]) if gradient is not None else float("nan")
        if collapse is not None or left < vanished(facts):
            findings.append(
                _finding(observation, stats, stack, facts=facts, collapse=collapse, left=left)
            )
    return findings


def _fall(losses: tuple[float, ...]) -> float | None:
    if len(losses) < LOSSES:
        return None
    before, after = median(losses[: LOSSES // 2]), median(losses[LOSSES // 2 :])
    return (before - after) / max(abs(before), 1e-12)


def _finding(
    observation: Observation,
    stats: RunningStats,
    stack: str,
    *,
    facts: StackFacts,
    collapse: Collapse | None,
    left: float,
) -> Finding:
    now = median(stats.losses[LOSSES // 2 :])
    return Finding(
        rule="not_learning",
        severity="critical",
        title="The model is not learning",
        message=(
            f"Over the last {LOSSES} losses, up to step {observation.step}, the loss has "
            f"stayed at {now:.3f}. Why: {_why(stack, facts, collapse, left)}."
        ),
        advice=advice_for(facts),
        step=observation.step,
        stack=stack,
        site="loss",
        quantity="value",
        first_layer=collapse.span.first if collapse else None,
        last_layer=collapse.span.last if collapse else None,
        measured=now,
        unit="nats",
        badness=1.0,
    )


def _why(stack: str, facts: StackFacts, collapse: Collapse | None, left: float) -> str:
    reasons = []
    if collapse is not None:
        reasons.append(
            f"rank collapse in the {stack}'s {collapse.span} (token correlation "
            f"{closeness(collapse.correlation)})"
        )
    if left < vanished(facts):
        reasons.append(f"the gradient reaching layer 0 has {number(left)} of the top's variance")
    return " and ".join(reasons)
