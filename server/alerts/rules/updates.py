"""What the optimizer's steps change: too much, or nothing."""

from __future__ import annotations

import numpy as np

from server.alerts.rules.depth import longest_run, number
from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Observation
from server.alerts.rules.running_stats import RunningStats

# Of the weights: healthy runs of AdamW without a warm-up take first steps of 0.055, those of Muon
# steps of 0.035 all along.
LARGE_UPDATE = 0.1

TOO_LARGE = Advice("Lower the learning rate, lengthen the warm-up or clip the update itself.")
STANDING = Advice(
    "Look at the learning rate of these parameters' group and at its schedule. In bfloat16 or "
    "float16 a step below half a unit in the last place changes nothing: keep the weights that the "
    "optimizer updates in float32."
)


def update_size(observation: Observation, _stats: RunningStats) -> list[Finding]:
    """A step changes a block's weights by at least a tenth of their size."""
    findings = []
    for stack in observation.stacks:
        ratio = observation.series(stack, "updates", "ratio")
        if ratio is None or not (ratio >= LARGE_UPDATE).any():
            continue
        span, worst = longest_run(ratio >= LARGE_UPDATE), int(np.nanargmax(ratio))
        findings.append(
            Finding(
                rule="update_size",
                severity="warning",
                title="Steps are large against the weights",
                message=f"At step {observation.step} a step changes the weights of the {stack}'s "
                f"block {worst} by {number(100 * float(ratio[worst]))} % of their size; 0.1 % is "
                "usual, and healthy runs stay under 6 %.",
                advice=TOO_LARGE,
                step=observation.step,
                stack=stack,
                site="updates",
                quantity="ratio",
                first_layer=span.first if span else None,
                last_layer=span.last if span else None,
                measured=float(ratio[worst]),
                unit="of the weights",
                badness=float(ratio[worst]),
            )
        )
    return findings


def standing_weights(observation: Observation, _stats: RunningStats) -> list[Finding] | None:
    """Parameters that the optimizer holds, and that have gradients, are not changed at all.

    Parameters without a gradient, frozen ones, have no ratio and are none of these.
    """
    model = observation.values.get("/updates/ratio")
    if model is None or np.isnan(model).all():
        return None  # the optimizer did not step, as under a loss scale
    if float(model[0]) == 0:
        return [_standing(observation, "", "No parameter is changed", "any parameter")]
    findings = []
    for stack in observation.stacks:
        ratio = observation.series(stack, "updates", "ratio")
        span = None if ratio is None else longest_run(ratio == 0)
        if span is not None:
            blocks = f"block {span.first}" if len(span) == 1 else f"blocks {span.first}–{span.last}"
            where = f"the weights of {blocks} of the {stack}"
            finding = _standing(observation, stack, f"The weights of {blocks} stand still", where)
            findings.append(finding)
    return findings


def _standing(observation: Observation, stack: str, title: str, where: str) -> Finding:
    rate = observation.scalar("learning_rate")
    at_rate = f", at a learning rate of {number(rate)}" if np.isfinite(rate) else ""
    ratio = observation.series(stack, "updates", "ratio") if stack else None
    span = None if ratio is None else longest_run(ratio == 0)
    return Finding(
        rule="standing_weights",
        severity="warning",
        title=title,
        message=f"At step {observation.step} the optimizer's step did not change {where}{at_rate}, "
        "although there are gradients.",
        advice=STANDING,
        step=observation.step,
        stack=stack,
        site="updates",
        quantity="ratio",
        first_layer=span.first if span else None,
        last_layer=span.last if span else None,
        measured=0.0,
        unit="of the weights",
        badness=float(len(span) if span else 1),
    )
