"""What the learning rate of every step tells: a rate of zero, and a rise that the loss follows."""

from __future__ import annotations

from dataclasses import replace

from server.alerts.rules.depth import number
from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.loss import loss_divergence, loss_rise
from server.alerts.rules.observation import Observation
from server.alerts.rules.running_stats import RunningStats

ZERO_STEPS = 20
JUMPED = 2.0  # times the rate

ZERO = Advice(
    "Look at the schedule: its number of steps, its multiplier, and whether a scheduler that was "
    "made anew after a restart goes on where the former one was. Nothing is learned meanwhile."
)
ENDED = Advice(
    "The schedule has come to its end, and the loop goes on. Stop it, or give the schedule as many "
    "steps as the loop takes: what is computed from here on changes nothing."
)
JUMP = Advice(
    "Look at the schedule at this step: a restart without a warm-up, a milestone that multiplies "
    "instead of divides, a scheduler stepped twice. Go back to a checkpoint from before it, and "
    "warm up to the new rate."
)


def zero_rate(observation: Observation, stats: RunningStats) -> list[Finding] | None:
    """The learning rate was exactly zero for 20 steps, and nothing was seen to change.

    Information where the rate had decayed to next to nothing before: that is how schedules end.
    """
    schedule = stats.schedule
    if schedule.step != observation.step:
        return None  # this step has no learning rate
    if schedule.zeros < ZERO_STEPS or stats.moved_at_zero:
        return []
    since = observation.step - schedule.zeros + 1
    how = "after it had decayed" if schedule.ended else "and it did not decay to that"
    return [
        Finding(
            rule="zero_rate",
            severity="info" if schedule.ended else "warning",
            title="The schedule has ended" if schedule.ended else "The learning rate is 0",
            message=f"From step {since} to {observation.step} the learning rate is exactly 0, "
            f"{how}: no step changes the weights.",
            advice=ENDED if schedule.ended else ZERO,
            step=observation.step,
            site="learning_rate",
            quantity="value",
            measured=0.0,
            badness=1.0,
        )
    ]


def rate_jump(observation: Observation, stats: RunningStats) -> list[Finding]:
    """The loss has risen within 100 steps of a rise of the learning rate to twice and more.

    A rise alone is no finding: warm restarts are healthy.
    """
    change = stats.schedule.recent_change(observation.step)
    if change is None or change.kind == "drop" or change.factor < JUMPED:
        return []
    risen = [*loss_divergence(observation, stats), *loss_rise(observation, stats)]
    if not risen:
        return []
    times = f" {number(change.factor)}-fold" if change.factor < float("inf") else ""
    finding = replace(
        risen[0],
        rule="rate_jump",
        severity="warning",
        title=f"The learning rate rose{times}, and the loss with it",
        message=f"At step {change.step} the learning rate rose from {number(change.before)} to "
        f"{number(change.after)}. {risen[0].message}",
        advice=JUMP,
        site="learning_rate",
        measured=change.after,
        unit="",
        badness=change.factor if change.factor < float("inf") else 1e300,
    )
    return [finding]
