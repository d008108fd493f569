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
# Healthy fresh models take steps of at least 8·10⁻⁴ of their weights once warmed up (SGD, Muon and
# DeepScaleLM included), those with a rate 3,000 times too small 7·10⁻⁷ to 9·10⁻⁶.
SMALL_UPDATE = 3e-5
SMALL_LOSSES = 64
UNLEARNED = 0.95  # of the first loss: healthy runs are under it within 20 steps

TOO_SMALL = Advice(
    "Raise the learning rate, a hundredfold to begin with. If it is as meant, look at what comes "
    "between it and the weights: a clip far below the gradient's norm (SGD's steps shrink with it, "
    "and Adam's below its eps), a multiplier of the schedule, a loss divided once too often."
)
STANDING = Advice(
    "Look at the learning rate of these parameters' group and at its schedule. In bfloat16 or "
    "float16 a step below half a unit in the last place changes nothing: keep the weights that the "
    "optimizer updates in float32."
)


def update_size(observation: Observation, stats: RunningStats) -> list[Finding]:
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
                "usual, and healthy runs stay under 6 %."
                + stats.schedule.explains(observation.step),
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


def small_updates(observation: Observation, stats: RunningStats) -> list[Finding] | None:
    """Steps are next to nothing against the weights, and a fresh model does not learn.

    Judged for a run that was seen from its initialisation on, whose learning rate is past its
    warm-up and has not decayed: later, in fine-tuning and at the end of a schedule, steps of this
    size are as they should be.
    """
    ratio = observation.values.get("/updates/ratio")
    if ratio is None or not np.isfinite(ratio[0]) or not _is_fresh(observation, stats):
        return None
    losses, first = len(stats.losses), stats.first_loss
    if losses < SMALL_LOSSES or not stats.schedule.is_at_work or not first > 0:
        return None
    value, loss = float(ratio[0]), stats.smoothed_loss
    if not 0 < value <= SMALL_UPDATE or not loss > UNLEARNED * first:
        return []
    norm = observation.scalar("gradient_norm")
    of_norm = f" and a gradient norm of {number(norm)}" if np.isfinite(norm) else ""
    return [
        Finding(
            rule="small_updates",
            severity="warning",
            title="Steps are far too small",
            message=f"At step {observation.step} a step changes the weights by {number(value)} of "
            f"their size, at a learning rate of {number(stats.schedule.rate)}{of_norm}: fresh "
            f"models that learn take steps of 10⁻³ to 3·10⁻². After {stats.step + 1} steps the "
            f"loss is {loss:.3f}, and was {first:.3f} at first.",
            advice=TOO_SMALL,
            step=observation.step,
            site="updates",
            quantity="ratio",
            measured=value,
            unit="of the weights",
            badness=-float(np.log10(value)),
        )
    ]


def _is_fresh(observation: Observation, stats: RunningStats) -> bool:
    """Whether the model is known to be untrained at its first description, and seen since."""
    starts = [facts.at_start for facts in observation.stacks.values()]
    if not starts or not all(facts.untrained for facts in observation.stacks.values()):
        return False
    return all(start is not None and stats.first_step <= start.step + 10 for start in starts)


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
