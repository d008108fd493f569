"""A job that goes on from a later step, with an optimizer that remembers nothing."""

from __future__ import annotations

from statistics import median

from server.alerts.rules.depth import number
from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Observation
from server.alerts.rules.running_stats import RunningStats

TOLD_STEPS = 500  # after the first; those that repeat steps of before the restart are not judged
FEWEST, LOSSES_AFTER, LOSSES_BEFORE = 5, 10, 32
JUMPED = 1.15  # times the losses before; resumed with its state a run stays within 1.03
RISEN = 1.1  # times the first loss after it, where none before are known: 1.23 was seen, and 0.97

LOST = Advice(
    "Load the optimizer's state with the model's: optimizer.load_state_dict(checkpoint[...]) "
    "before the first step. If it is loaded, look whether the checkpoint holds any: some save the "
    "weights alone, and sharded optimizers save each process's part. If the optimizer is new on "
    "purpose, warm up its learning rate."
)


def optimizer_state_lost(observation: Observation, stats: RunningStats) -> list[Finding] | None:
    """The agent saw an optimizer without any state at a first step that is not the run's.

    Information at first, as optimizers may be new on purpose; a warning once the losses since lie
    15 % above those before, or 10 % above the first since where none before are known.
    """
    health = observation.health
    if health is None:
        return None
    since = health.fresh_optimizer_at
    if since < 0 or not 0 <= observation.step - since <= TOLD_STEPS:
        return []
    harm = _harm(stats, observation.step - since + 1)
    return [
        Finding(
            rule="optimizer_state_lost",
            severity="warning" if harm else "info",
            title="The optimizer began without its state",
            message=f"The job goes on at step {since}, and its optimizer remembered nothing of the "
            f"steps before: it had no state at its first update.{harm}",
            advice=LOST,
            step=observation.step,
            site="optimizer",
            quantity="state",
            measured=0.0,
            badness=2.0 if harm else 1.0,
        )
    ]


def _harm(stats: RunningStats, steps: int) -> str:
    """What the losses say, in a sentence; ``""`` where they say nothing."""
    after, before = stats.losses[-steps:], stats.losses[:-steps][-LOSSES_BEFORE:]
    if len(after) < FEWEST:
        return ""
    if len(before) >= FEWEST:
        now, usual = median(after[:LOSSES_AFTER]), median(before)
        if usual > 0 and now >= JUMPED * usual:
            return (
                f" The losses since have a median of {number(now)}, those before {number(usual)}."
            )
        return ""
    first, now = after[0], median(after[2:LOSSES_AFTER])
    # Of a process that begins the run's records; in the middle of them the window is too short.
    if stats.first_loss == first and 0 < RISEN * first <= now:
        return f" The first loss was {number(first)}, and the next ones have {number(now)}."
    return ""
