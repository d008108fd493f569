"""The loss rises away from its best."""

from __future__ import annotations

from math import isfinite
from statistics import median

from server.alerts.rules.finding import Advice, Finding, Severity
from server.alerts.rules.observation import Observation
from server.alerts.rules.running_stats import RunningStats, noise

RISE = 0.2  # of the best smoothed loss
LOST = 0.5  # of the best smoothed loss: critical
# Of what the run has gained: near zero a share of the loss itself is next to nothing.
GAINED, GAINED_LOST = 0.05, 0.2
# Times its own size, or 1, by which a loss that may be negative has to rise.
BLOWN_UP = 10.0
SIGMAS = 6.0  # OLMo-core's spike distance, used against robust noise
SPIKE_RISE = 0.3
SPIKE_WINDOW = 32

LOWER_RATE = Advice(
    "Lower the learning rate, lengthen the warm-up or clip gradients, and restart from a "
    "checkpoint from before the rise. Look at the layers whose variance left the prediction first."
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
            f"{usual:.3f} over the {SPIKE_WINDOW} losses before.",
            advice=SPIKE_ADVICE,
            step=observation.step,
            site="loss",
            quantity="value",
            measured=loss,
            unit="nats",
            badness=loss - usual,
        )
    ]
