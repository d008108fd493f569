"""Updates of half-precision weights that rounding swallows."""

from __future__ import annotations

from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Observation
from server.alerts.rules.running_stats import RunningStats

SOME, NEARLY_ALL = 0.8, 0.95

MASTER = Advice(
    "Keep the weights that the optimizer updates in float32, and compute in bfloat16 by autocast; "
    "or take an optimizer that adds up what is rounded away (Kahan summation), or rounds "
    "stochastically: with one of these there is nothing to do."
)


def rounded_updates(observation: Observation, stats: RunningStats) -> list[Finding] | None:
    """Most weights of half precision come out of an update exactly as they went in.

    A step below half a unit in the last place changes nothing. Judged where the optimizer holds
    weights of half precision, past the warm-up and before the rate has decayed.
    """
    share = observation.scalar("unchanged_weights")
    if not 0 <= share <= 1 or not stats.schedule.is_at_work:
        return None
    if share < SOME:
        return []
    rate = stats.schedule.rate
    return [
        Finding(
            rule="rounded_updates",
            severity="warning" if share >= NEARLY_ALL else "info",
            title="Half precision swallows the updates",
            message=f"At step {observation.step} the optimizer's step left {share:.1%} of the "
            f"blocks' weights exactly as they were, at a learning rate of {rate:.2g}. They are of "
            "half precision, and the step is below half a unit in their last place.",
            advice=MASTER,
            step=observation.step,
            site="updates",
            quantity="unchanged",
            measured=share,
            unit="share of weights",
            badness=share,
        )
    ]
