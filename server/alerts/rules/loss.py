"""The loss rises away from its best."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from statistics import median

from server.alerts.rules.finding import Advice, Finding, Severity
from server.alerts.rules.observation import Observation
from server.alerts.rules.running_stats import LAST_LOSSES, SMOOTHED, RunningStats, noise

RISE = 0.2  # of the best smoothed loss
LOST = 0.5  # of the best smoothed loss: critical
# Of what the run has gained: near zero a share of the loss itself is next to nothing.
GAINED, GAINED_LOST = 0.05, 0.2
# Times its own size, or 1, by which a loss that may be negative has to rise.
BLOWN_UP = 10.0
SIGMAS = 6.0  # OLMo-core's spike distance, used against robust noise
SPIKE_RISE = 0.3
NEXT_TO_NOTHING = 0.1  # of a loss: one that came from there grows by design
SUDDEN = 0.5  # of a fall below zero, in one step
SPIKE_WINDOW = 32

LOWER_RATE = Advice(
    "Lower the learning rate, lengthen the warm-up or clip gradients, and restart from a "
    "checkpoint from before the rise. Look at the layers whose variance left the prediction first."
)
DATA_ADVICE = Advice(
    "What enters the first block is as it was, so that inputs and embedding are not what changed: "
    "look at the labels, at the loss itself and at the optimizer's settings from this step on."
)
MOVED_ADVICE = Advice(
    "What enters the first block has changed as well: look at the data from this step on, and at "
    "the learning rate of the embedding."
)
SIGN_ADVICE = Advice(
    "A cross-entropy is never negative: look for a sign that was turned, or a term that was added "
    "to the loss. A density's negative logarithm may fall below zero; this one fell there at once."
)
SPIKE_ADVICE = Advice(
    "One step is no trend. When spikes come often, look at the batch, clip gradients or lower the "
    "learning rate."
)


def loss_divergence(observation: Observation, stats: RunningStats) -> list[Finding]:
    """The smoothed loss stands above its best by 20 %, by its noise, and by some of the gain.

    A loss that is zero or negative is no log-likelihood: objectives of reinforcement learning
    begin at zero and grow by design. Such a loss has to rise by many times its size.
    """
    smoothed, best, first = stats.smoothed_loss, stats.best_loss, stats.first_loss
    if not (isfinite(smoothed) and isfinite(best)):
        return []
    rise, gain = smoothed - best, max(first - best, 0.0)
    least = max(RISE * best, GAINED * gain)
    if min(best, first) <= 0:
        least = BLOWN_UP * max(abs(best), abs(first), 1.0)
    if rise <= max(least, SIGMAS * stats.best_noise):
        return []
    all_lost = smoothed >= first
    far = rise >= max(LOST * best, GAINED_LOST * gain)
    severity: Severity = "critical" if all_lost or far else "warning"
    return [
        Finding(
            rule="loss_divergence",
            severity=severity,
            title="The loss is diverging" if severity == "critical" else "The loss is rising",
            message=(
                f"At step {observation.step} the loss, as the median of the last five, is "
                f"{smoothed:.3f}: {rise:.3f} above its best of {best:.3f}"
                + (f", and no better than the first loss of {first:.3f}." * all_lost)
                + "." * (not all_lost)
                + stats.schedule.explains(observation.step)
            ),
            advice=LOWER_RATE,
            step=observation.step,
            site="loss",
            quantity="value",
            measured=smoothed,
            unit="nats",
            badness=rise,
        )
    ]


def loss_rise(observation: Observation, stats: RunningStats) -> list[Finding]:
    """The last 12 losses lie above the 32 before by 5 %, by their scatter, and by some of the gain.

    Medians of many losses see a smaller step than `loss_divergence`, and later.
    """
    level = stats.loss_level
    gain = max(stats.first_loss - level.usual, 0.0)
    rise = level.now - level.usual
    grows_by_design = stats.best_loss <= NEXT_TO_NOTHING * level.usual
    if not level.has_risen or rise <= GAINED * gain or level.usual <= 0 or grows_by_design:
        return []
    moved = [inputs.has_moved for inputs in stats.inputs.values()]
    advice = LOWER_RATE
    if moved and None not in moved:
        advice = MOVED_ADVICE if any(moved) else DATA_ADVICE
    return [
        Finding(
            rule="loss_rise",
            severity="warning",
            title="The loss has risen",
            message=f"At step {observation.step} the last {LAST_LOSSES} losses have a median of "
            f"{level.now:.3f}, and had {level.usual:.3f} before: a step of {rise:.3f}, "
            f"{rise / max(level.deviation, 1e-12):.0f} times what batches make of it."
            + stats.schedule.explains(observation.step),
            advice=advice,
            step=observation.step,
            site="loss",
            quantity="value",
            measured=level.now,
            unit="nats",
            badness=rise,
        )
    ]


def loss_sign(observation: Observation, stats: RunningStats) -> list[Finding]:
    """Losses that were positive are negative, from one step to the next."""
    before, now = stats.losses[-SPIKE_WINDOW - SMOOTHED : -SMOOTHED], stats.losses[-SMOOTHED:]
    if len(before) < SPIKE_WINDOW or min(before) <= 0 or max(now) >= 0:
        return []
    fall = median(before) - median(now)
    steps = [a - b for a, b in pairwise((before[-1], *now))]
    if max(steps) < SUDDEN * fall and now[-1] > -median(before):
        return []
    return [
        Finding(
            rule="loss_sign",
            severity="critical",
            title="The loss has become negative",
            message=f"At step {observation.step} the loss is {now[-1]:.3f}; over the "
            f"{SPIKE_WINDOW} losses before it was positive, with a median of {median(before):.3f}.",
            advice=SIGN_ADVICE,
            step=observation.step,
            site="loss",
            quantity="value",
            measured=now[-1],
            unit="nats",
            badness=abs(now[-1]),
        )
    ]


def loss_spike(observation: Observation, stats: RunningStats) -> list[Finding]:
    """One loss stands above the median of the last 32 by 30 % and by six times their noise."""
    loss, past = observation.scalar("loss"), stats.losses[-SPIKE_WINDOW - 1 : -1]
    if not isfinite(loss) or len(past) < SPIKE_WINDOW:
        return []
    usual = median(past)
    rise = loss - usual
    # The noise takes longest to compute, and is asked for where the rise alone would do.
    if rise <= SPIKE_RISE * abs(usual) or rise <= SIGMAS * noise(past):
        return []
    return [
        Finding(
            rule="loss_spike",
            severity="info",
            title="A spike in the loss",
            message=f"At step {observation.step} the loss jumped to {loss:.3f} from a median of "
            f"{usual:.3f} over the {SPIKE_WINDOW} losses before."
            + stats.schedule.explains(observation.step),
            advice=SPIKE_ADVICE,
            step=observation.step,
            site="loss",
            quantity="value",
            measured=loss,
            unit="nats",
            badness=loss - usual,
        )
    ]
