"""Running statistics of a run, as far as the rules need its past: a small frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf, isfinite, pi
from statistics import median

import numpy as np

from server.alerts.rules.observation import Floats, Observation
from server.alerts.rules.schedule import Schedule, followed

LOSSES = 128  # losses in the window; `not_learning` looks at all of them
SMOOTHED = 5  # the smoothed loss is the median of this many
REFERENCES = 10  # sampled steps that make up a stack's early reference
NOISE_SAMPLES = 32
# Samples whose batch-to-batch noise is compared with that of the samples before them, and the share
# of it that is left where batches are the same; those of healthy runs never left less than 0.4.
NEWEST, BEFORE = 16, 32
QUIET = 0.05
# Samples whose place is compared with that of the samples before, and the robust standard
# deviations by which they must differ.
MOVED_NOW, MOVED = 6, 3.0
# Losses that are compared with those before them, and by how much they must lie above: a share, and
# standard errors. Healthy runs reached 4.5 of these, and opened no alert.
LAST_LOSSES, LOSSES_BEFORE = 12, 32
RISEN, RISEN_SIGMAS = 0.05, 4.5
LOGIT_SAMPLES = 12  # whose trend is judged
MOST_RATES = 8  # optimizers whose rates an agent records
EARLY = 3  # sampled steps that wait for a prediction that is still being computed


@dataclass(frozen=True, slots=True)
class Reference:
    """Means over a stack's first sampled steps, each (layers,)."""

    samples: int
    logit_max: Floats
    entropy: Floats


@dataclass(frozen=True, slots=True)
class LossLevel:
    """Where the last losses lie beside those before them.

    Attributes:
        usual: median of the losses before; where the last ones have risen, as it was before they
            did. NaN without enough of them.
        deviation: standard error of the difference of the two medians.
        now: median of the last losses.
    """

    usual: float = float("nan")
    deviation: float = float("nan")
    now: float = float("nan")

    @property
    def has_risen(self) -> bool:
        """Whether the last losses lie above those before, by a share and beyond their scatter."""
        rise = self.now - self.usual
        return rise > max(RISEN * abs(self.usual), RISEN_SIGMAS * self.deviation)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What entered a stack in its last samples.

    Attributes:
        entering: logarithm of the variance and token correlation, where both were finite, oldest
            first.
        noise: of each from sample to sample, before the newest samples; where these are quiet, as
            it was before they were. None without enough samples.
        quietness: the newest samples' noise over it, the larger of the two; 1 without enough.
    """

    entering: tuple[tuple[float, float], ...] = ()
    noise: tuple[float, float] | None = None
    quietness: float = 1.0

    @property
    def has_moved(self) -> bool | None:
        """Whether the last samples lie elsewhere than those before; None without enough."""
        if len(self.entering) < MOVED_NOW + BEFORE:
            return None
        samples = np.asarray(self.entering[-(MOVED_NOW + BEFORE) :])
        before, now = samples[:BEFORE], samples[BEFORE:]
        centre = np.median(before, axis=0)
        spread = 1.4826 * np.median(np.abs(before - centre), axis=0)
        return bool((np.abs(np.median(now, axis=0) - centre) > MOVED * spread).any())


@dataclass(frozen=True, slots=True)
class RunningStats:
    """The past of one run, as far as rules need it.

    Attributes:
        step: the last step judged, sampled or not; -1 before the first.
        first_step: the first one; -1 before it.
        samples: how many sampled steps were judged.
        losses: the last finite losses, of sampled and other steps, oldest first.
        norms: the last finite gradient norms, oldest first.
        first_loss: the first finite loss; NaN before it.
        best_loss: the lowest smoothed loss so far; Inf before it.
        best_noise: robust standard deviation of single losses when `best_loss` was reached.
        references: early attention values by stack.
        loss_level: of the last losses beside those before them.
        inputs: what entered each stack.
        early: the run's first sampled steps, until theory's prediction is there to judge them by.
        early_judged: whether they have been judged.
        schedule: the learning rates so far, of the optimizer's first group.
        moved_at_zero: whether a sample has shown an update since this rate is zero.
        logits: step and largest attention logits of the last samples, by stack, oldest first.
        health: dropped frames and failures that the agent last reported; None before it did.
        lost: how many of each are new at this step.
    """

    step: int = -1
    first_step: int = -1
    samples: int = 0
    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()
    first_loss: float = float("nan")
    best_loss: float = inf
    best_noise: float = 0.0
    references: Mapping[str, Reference] = field(default_factory=dict)
    loss_level: LossLevel = LossLevel()
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    early: tuple[Observation, ...] = ()
    early_judged: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    moved_at_zero: bool = False
    logits: Mapping[str, tuple[tuple[int, Floats], ...]] = field(default_factory=dict)
    health: tuple[int, int] | None = None
    lost: tuple[int, int] = (0, 0)

    @property
    def smoothed_loss(self) -> float:
        """Median of the last losses; NaN before there are enough."""
        return median(self.losses[-SMOOTHED:]) if len(self.losses) >= SMOOTHED else float("nan")


def updated(stats: RunningStats, observation: Observation) -> RunningStats:
    """The stats after one more step."""
    loss = observation.scalar("loss")
    losses = _append(stats.losses, loss)
    health = _health(stats, observation)
    schedule = followed(stats.schedule, observation.step, _rate(observation))
    grown = RunningStats(
        step=observation.step,
        first_step=observation.step if stats.first_step < 0 else stats.first_step,
        samples=stats.samples + observation.sampled,
        losses=losses,
        norms=_append(stats.norms, observation.scalar("gradient_norm")),
        first_loss=stats.first_loss if isfinite(stats.first_loss) else loss,
        best_loss=stats.best_loss,
        best_noise=stats.best_noise,
        references=_references(stats, observation),
        loss_level=_level(stats.loss_level, losses) if isfinite(loss) else stats.loss_level,
        inputs=_inputs(stats, observation),
        early=_early(stats, observation),
        early_judged=stats.early_judged,
        schedule=schedule,
        moved_at_zero=schedule.zeros > 0 and (stats.moved_at_zero or _moves(observation)),
        logits=_logits(stats, observation),
        health=health,
        lost=_new(stats.health, health),
    )
    return _improved(grown) if isfinite(loss) else grown


def _rate(observation: Observation) -> float:
    """The first optimizer's learning rate; where it is zero, the largest of the others'."""
    rate = observation.scalar("learning_rate")
    if rate != 0:
        return rate
    others = [observation.scalar(f"learning_rate_{index}") for index in range(1, MOST_RATES)]
    return max((other for other in others if other > 0), default=rate)


def _moves(observation: Observation) -> bool:
    """Whether this step's sample shows that the optimizer changed a parameter."""
    ratio = observation.values.get("/updates/ratio")
    return ratio is not None and bool((ratio > 0).any())


def _logits(
    stats: RunningStats, observation: Observation
) -> Mapping[str, tuple[tuple[int, Floats], ...]]:
    if not observation.sampled or observation.partial:
        return stats.logits
    logits = dict(stats.logits)
    for stack in observation.stacks:
        largest = observation.series(stack, "attention_logits", "max")
        if largest is not None:
            logits[stack] = (*logits.get(stack, ()), (observation.step, largest))[-LOGIT_SAMPLES:]
    return logits


def noise(losses: tuple[float, ...]) -> float:
    """Robust standard deviation of single losses around their trend, from first differences."""
    if len(losses) < SMOOTHED:
        return 0.0
    # Of few numbers a median in Python takes a tenth of numpy's: this is judged at every step.
    steps = [after - before for before, after in pairwise(losses[-NOISE_SAMPLES:])]
    centre = median(steps)
    spread = median(abs(step - centre) for step in steps)
    return 1.4826 * spread / 2**0.5  # a difference of two has twice the variance of one


def _improved(stats: RunningStats) -> RunningStats:
    smoothed = stats.smoothed_loss
    if not smoothed < stats.best_loss:
        return stats
    return replace(stats, best_loss=smoothed, best_noise=noise(stats.losses))


def _early(stats: RunningStats, observation: Observation) -> tuple[Observation, ...]:
    full = stats.early_judged or len(stats.early) >= EARLY
    return stats.early if full or not observation.sampled else (*stats.early, observation)


def _health(stats: RunningStats, observation: Observation) -> tuple[int, int] | None:
    health = observation.health
    return stats.health if health is None else (health.dropped, health.failures)


def _new(before: tuple[int, int] | None, now: tuple[int, int] | None) -> tuple[int, int]:
    # Counters are cumulative: the first report, or the first after a restart, is no increase.
    return (0, 0) if before is None or now is None else (now[0] - before[0], now[1] - before[1])


def _append(past: tuple[float, ...], value: float) -> tuple[float, ...]:
    return (*past, value)[-LOSSES:] if isfinite(value) else past


def _references(stats: RunningStats, observation: Observation) -> Mapping[str, Reference]:
    if stats.samples >= REFERENCES or not observation.sampled:
        return stats.references
    references = dict(stats.references)
    for stack in observation.stacks:
        logit_max = observation.series(stack, "attention_logits", "max")
        entropy = observation.series(stack, "attention_logits", "entropy")
        if logit_max is not None and entropy is not None:
            references[stack] = _averaged(references.get(stack), logit_max, entropy)
    return references


def _level(past: LossLevel, losses: tuple[float, ...]) -> LossLevel:
    if len(losses) < LAST_LOSSES + LOSSES_BEFORE:
        return past
    before = losses[-(LAST_LOSSES + LOSSES_BEFORE) : -LAST_LOSSES]
    now = median(losses[-LAST_LOSSES:])
    since = replace(past, now=now)
    if since.has_risen:
        return since
    # A median of n values has pi/2 times the variance of their mean.
    share = (pi / 2 * (1 / LAST_LOSSES + 1 / LOSSES_BEFORE)) ** 0.5
    return LossLevel(median(before), noise(before) * share, now)


def _inputs(stats: RunningStats, observation: Observation) -> Mapping[str, Inputs]:
    inputs = dict(stats.inputs)
    for stack in observation.stacks:
        variance = observation.series(stack, "stream", "variance")
        correlation = observation.series(stack, "stream", "correlation")
        if variance is None or correlation is None or not variance[0] > 0:
            continue
        entering = (float(np.log(variance[0])), float(correlation[0]))
        if all(map(isfinite, entering)):
            inputs[stack] = _entered(inputs.get(stack, Inputs()), entering)
    return inputs


def _entered(past: Inputs, entering: tuple[float, float]) -> Inputs:
    samples = (*past.entering, entering)[-(BEFORE + NEWEST) :]
    if len(samples) < BEFORE + NEWEST:
        return Inputs(samples)
    before, newest = _steps(samples[:BEFORE]), _steps(samples[BEFORE:])
    noise = before if past.noise is None else past.noise
    quietness = max(n / usual if usual > 0 else 1.0 for n, usual in zip(newest, noise, strict=True))
    if quietness > QUIET:
        noise = before
    return Inputs(samples, noise, quietness)


def _steps(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Median size of the second differences: the weights of an embedding drift, smoothly."""
    variance, correlation = np.median(np.abs(np.diff(np.asarray(samples), 2, axis=0)), axis=0)
    return float(variance), float(correlation)


def _averaged(past: Reference | None, logit_max: Floats, entropy: Floats) -> Reference:
    if past is None or past.logit_max.shape != logit_max.shape:
        return Reference(1, logit_max, entropy)
    return Reference(
        past.samples + 1,
        _moved(past.logit_max, logit_max, past.samples),
        _moved(past.entropy, entropy, past.samples),
    )


def _moved(mean: Floats, value: Floats, samples: int) -> Floats:
    """The mean with one more value; what is not finite on either side gives way to the other."""
    moved = mean + (value - mean) / (samples + 1)
    return np.where(np.isfinite(mean) & np.isfinite(value), moved, np.fmin(mean, value))
