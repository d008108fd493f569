"""Where attention logits are heading: the step at which they pass their limit at today's pace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.alerts.rules.attention import ADVICE, GROWN, LARGE
from server.alerts.rules.depth import number
from server.alerts.rules.finding import Finding
from server.alerts.rules.observation import Floats, Observation
from server.alerts.rules.running_stats import LOGIT_SAMPLES, REFERENCES, RunningStats

NEAR = 50.0  # half of the limit: below it a trend says little of what comes
# The later half of the samples must grow as fast as the earlier one: healthy growth levels off.
UNBROKEN = 0.9
QUARTILES = (25.0, 75.0)


@dataclass(frozen=True, slots=True)
class Trend:
    """Straight growth over the last samples.

    Attributes:
        now: the value on the line at the last sample.
        slope: median of the slopes between any two samples, a step (Theil and Sen).
        low, high: quartiles of these slopes.
        unbroken: whether the later half grows at least as fast as the earlier one.
        spans: steps from the first sample to the last.
    """

    now: float
    slope: float
    low: float
    high: float
    unbroken: bool
    spans: int

    def steps_to(self, limit: float) -> tuple[int, int]:
        """The fewest and the most steps to a limit above `now`, by the quartiles."""
        left = limit - self.now
        return round(left / self.high), round(left / self.low)


def attention_logit_trend(observation: Observation, stats: RunningStats) -> list[Finding]:
    """A block's largest logit is past 50, three times its start, and reaches 100 before long.

    *Before long* is as many steps as its last 12 samples span.
    """
    findings = []
    for stack, samples in stats.logits.items():
        reference = stats.references.get(stack)
        if len(samples) < LOGIT_SAMPLES or reference is None or stats.samples < REFERENCES:
            continue
        if samples[-1][0] != observation.step or not _same_shape(samples, reference.logit_max):
            continue
        finding = _heading(observation, stack, samples, reference.logit_max)
        findings += [finding] if finding is not None else []
    return findings


def trend_of(steps: Floats, values: Floats) -> Trend:
    """The trend of values, (n,), at ascending steps, (n,); n is at least 4."""
    first, second = np.triu_indices(len(steps), 1)
    slopes = (values[second] - values[first]) / (steps[second] - steps[first])
    slope, low, high = np.median(slopes), *np.percentile(slopes, QUARTILES)
    # The median of the lines through each value: one value off it moves nothing.
    now = float(np.median(values + slope * (steps[-1] - steps)))
    middle = len(steps) // 2
    earlier, later = (
        _slope(steps[part], values[part]) for part in (slice(middle), slice(middle, None))
    )
    return Trend(
        now=now,
        slope=float(slope),
        low=float(low),
        high=float(high),
        unbroken=bool(later >= UNBROKEN * earlier),
        spans=int(steps[-1] - steps[0]),
    )


def _slope(steps: Floats, values: Floats) -> float:
    first, second = np.triu_indices(len(steps), 1)
    return float(np.median((values[second] - values[first]) / (steps[second] - steps[first])))


def _same_shape(samples: tuple[tuple[int, Floats], ...], start: Floats) -> bool:
    return all(values.shape == start.shape for _, values in samples)


def _heading(
    observation: Observation, stack: str, samples: tuple[tuple[int, Floats], ...], start: Floats
) -> Finding | None:
    steps = np.array([step for step, _ in samples], dtype=np.float64)
    logits = np.stack([values for _, values in samples])
    now = logits[-1]
    candidates = np.flatnonzero((now >= NEAR) & (now < LARGE) & (now >= GROWN * start))
    heading = [
        (block, trend)
        for block in candidates.tolist()
        if np.isfinite(logits[:, block]).all()
        and _is_near(trend := trend_of(steps, logits[:, block]))
    ]
    if not heading:
        return None
    block, trend = min(heading, key=lambda each: each[1].steps_to(LARGE))
    fewest, most = trend.steps_to(LARGE)
    first, last = observation.step + fewest, observation.step + most
    when = f"at step {first}" if first == last else f"between steps {first} and {last}"
    value = float(now[block])
    return Finding(
        rule="attention_logit_trend",
        severity="warning",
        title="Attention logits are heading for their limit",
        message=f"At step {observation.step} the largest attention logit of the {stack}'s block "
        f"{block} is {number(value)}, from {number(float(start[block]))} in the first sampled "
        f"steps. At the pace of the last {trend.spans} steps, {number(trend.slope)} a step, it "
        f"passes {LARGE:.0f} {when}.",
        advice=ADVICE,
        step=observation.step,
        stack=stack,
        site="attention_logits",
        quantity="max",
        first_layer=block,
        last_layer=block,
        measured=value,
        unit="logit",
        badness=value,
    )


def _is_near(trend: Trend) -> bool:
    if not (trend.low > 0 and trend.unbroken and trend.now < LARGE):
        return False
    return trend.steps_to(LARGE)[1] <= trend.spans
