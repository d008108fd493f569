"""The learning-rate schedule as it was used, step by step. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite, isnan, nan
from typing import Literal

from server.alerts.rules.depth import number

SUDDEN = 1.5  # times the rate, up or down, from one step to the next
SMOOTH = 3.0  # times the change before it: a warm-up doubles the rate at its second step
START_STEPS = 3  # the first changes have none before them
GAP = 4  # steps between two rates that can still be told from each other's neighbours
ENDED = 0.1  # of the peak, from which a schedule reaches zero by design
STANDS = 3  # steps in a row without a rise after which a warm-up is over
RECENT = 100  # steps for which a change explains what follows

Kind = Literal["rise", "restart", "drop"]


@dataclass(frozen=True, slots=True)
class RateChange:
    """A sudden change of the learning rate.

    Attributes:
        step: the first step with the new rate.
        before, after: the rates.
        kind: ``"restart"`` comes back to where the rate was before it decayed, a ``"rise"`` goes
            beyond.
    """

    step: int
    before: float
    after: float
    kind: Kind

    @property
    def factor(self) -> float:
        """How many times as large, or as small, the rate became; Inf from or to zero."""
        low, high = sorted((self.before, self.after))
        return high / low if low > 0 else float("inf")

    def __str__(self) -> str:
        """A clause, with the step."""
        verb = "fell" if self.kind == "drop" else "rose"
        times = f" {number(self.factor)}-fold" if isfinite(self.factor) else ""
        rates = f"from {number(self.before)} to {number(self.after)}"
        back = ", where it was before" if self.kind == "restart" else ""
        return f"the learning rate {verb}{times} at step {self.step}, {rates}{back}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the learning rates so far have been.

    Attributes:
        step, rate: the last one; NaN before there is any.
        steps: how many there were.
        peak: the highest.
        difference: of the last two that differed.
        rose: how many times it rose before it first stood or fell.
        standing: steps in a row since it last rose.
        warm_up_end: the last step of the warm-up; None while it lasts, or where there was none.
        zeros: how many of the last ones were exactly zero.
        ended: whether these zeros are how a schedule ends: it had decayed to next to nothing.
        change: the last sudden change.
    """

    step: int = -1
    rate: float = nan
    steps: int = 0
    peak: float = 0.0
    difference: float = 0.0
    rose: int = 0
    standing: int = 0
    warm_up_end: int | None = None
    zeros: int = 0
    ended: bool = False
    change: RateChange | None = None

    @property
    def is_warming_up(self) -> bool:
        """Whether the rate has risen from step to step since the start."""
        return self.rose > 0 and self.warm_up_end is None

    @property
    def is_at_work(self) -> bool:
        """Whether the rate is at least half of its peak, and no longer in its warm-up."""
        return self.rate >= self.peak / 2 > 0 and not self.is_warming_up

    def recent_change(self, step: int) -> RateChange | None:
        """The sudden change that a step shortly after it may suffer from; else None."""
        change = self.change
        return change if change is not None and 0 <= step - change.step <= RECENT else None

    def explains(self, step: int) -> str:
        """A sentence on a recent rise, for the message of what followed; ``""`` without one."""
        change = self.recent_change(step)
        if change is None or change.kind == "drop":
            return ""
        text = str(change)
        return f" {text[0].upper()}{text[1:]}."


def followed(schedule: Schedule, step: int, rate: float) -> Schedule:
    """The schedule with the rate of one more step; as it is where the rate is not known."""
    if not isfinite(rate) or rate < 0:
        return schedule
    first = isnan(schedule.rate)
    difference = 0.0 if first else rate - schedule.rate
    change = None if first else _sudden(schedule, step, rate)
    rising = difference > 0
    after = replace(
        schedule,
        step=step,
        rate=rate,
        steps=schedule.steps + 1,
        peak=max(schedule.peak, rate),
        difference=difference if difference else schedule.difference,
        rose=schedule.rose + (rising and schedule.warm_up_end is None),
        standing=0 if rising else schedule.standing + 1,
        zeros=schedule.zeros + 1 if rate == 0 else 0,
        ended=_ended(schedule, rate, change),
        change=change or schedule.change,
    )
    return _warmed_up(after, difference)


def follow(steps: Iterable[tuple[int, float]]) -> Schedule:
    """The schedule of (step, rate) pairs, ascending."""
    schedule = Schedule()
    for step, rate in steps:
        schedule = followed(schedule, step, rate)
    return schedule


def _sudden(schedule: Schedule, step: int, rate: float) -> RateChange | None:
    before = schedule.rate
    low, high = sorted((before, rate))
    if high < SUDDEN * low or low == high or step - schedule.step > GAP:
        return None
    # A warm-up from next to nothing, and a decay to it, change by much, and as before.
    steady = abs(rate - before) <= SMOOTH * abs(schedule.difference)
    if steady or schedule.steps < START_STEPS:
        return None
    if rate < before:
        return RateChange(step, before, rate, "drop")
    return RateChange(step, before, rate, "restart" if rate <= SUDDEN * schedule.peak else "rise")


def _ended(schedule: Schedule, rate: float, change: RateChange | None) -> bool:
    if rate > 0:
        return False
    if schedule.zeros:
        return schedule.ended
    return change is None and 0 < schedule.rate <= ENDED * schedule.peak


def _warmed_up(schedule: Schedule, difference: float) -> Schedule:
    if schedule.warm_up_end is not None or not schedule.rose:
        return schedule
    if difference < 0 or schedule.standing >= STANDS:
        return replace(schedule, warm_up_end=schedule.step - schedule.standing)
    return schedule
