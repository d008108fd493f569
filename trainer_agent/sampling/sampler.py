"""Which steps are sampled: every so many, or as many as a budget allows."""

from __future__ import annotations

import math
from collections import deque
from statistics import median, median_low

# Sampled so that a page has something to show at once: two whatever they cost, and two more where
# a sample is no large part of a step. The first costs more than any other.
FIRST_STEPS, SURE_STEPS = 4, 2
HASTY = 4  # samples ahead of time that a job may have at once
DEAR_SHARE = 0.15  # four samples of that are one percent of the first 60 steps
# A budget that allows a sample less often than this asks for cheaper samples.
LONGEST_INTERVAL_S = 60.0


class Sampler:
    """Decides after every step whether the next one is sampled.

    With `every` fixed, the steps whose number it divides. With a budget, the first four (two where
    a sample takes more than 15 % of a step) and then steps `every` apart, where `every` follows the
    measured cost: the time one sample takes over the time the budget grants per step, half of it
    while the start is being paid back. From then on `every` at most doubles or halves from one
    sample to the next.

    Attributes:
        every: sampling interval in steps now in force.
        fixed: whether it stays as it is.
        too_costly: whether the budget allows less than a sample a minute.
    """

    def __init__(self, every: int | None, overhead: float) -> None:
        self.every = every or 1
        self.too_costly = False
        self.fixed, self._overhead = every is not None, overhead
        self._steps, self._next = 0, 0
        self._hastened, self._hasty_left = 0, HASTY
        self._first_steps = FIRST_STEPS
        self._agrees = False
        self._costs: deque[float] = deque(maxlen=5)
        self._lengths: deque[float] = deque(maxlen=9)
        self._balance_s = 0.0

    def is_sampled(self, step: int) -> bool:
        """Whether step number `step`, the next to run, is sampled."""
        if self.fixed:
            return step % self.every == 0
        return self._steps < self._first_steps or self._steps >= self._next

    def unsampled_from(self, step: int) -> int:
        """How many steps from number `step` on, the next to run, are surely not sampled."""
        if self.fixed:
            return -step % self.every
        return 0 if self._steps < self._first_steps else max(self._next - self._steps, 0)

    def end_steps(self, steps: int, length_s: float, spent_s: float) -> None:
        """Count steps that took `length_s` together, of which the agent took `spent_s`."""
        self._steps += steps
        self._lengths.append(max(length_s - spent_s, 1e-9) / steps)
        self._balance_s += self._overhead * length_s - spent_s

    def end_sample(self, cost_s: float, agreed: int | None = None) -> None:
        """Note what one sample takes, apart from what happens once, and choose the interval.

        `agreed` is the interval that several processes have agreed on.
        """
        if self.fixed:
            return
        self._costs.append(cost_s)
        self._agrees = agreed is not None
        # Several processes have to begin alike.
        if agreed is None and self._steps == SURE_STEPS and self._is_dear():
            self._first_steps = SURE_STEPS
        self._schedule(agreed or self.affordable_interval())

    def affordable_interval(self) -> int:
        """The interval that the budget asks for now."""
        granted = self._overhead if self._balance_s >= 0 else self._overhead / 2
        if not self._costs or not self._lengths:
            return self.every
        # Medians: a step that saved a checkpoint, say, is no measure of the others.
        length_s = median(self._lengths)
        ideal = math.ceil(median_low(self._costs) / (granted * length_s))
        self.too_costly = ideal > 1 and ideal * length_s > LONGEST_INTERVAL_S
        # What the first samples of one process have shown is its first interval: to double up to
        # it, from 1, would take many more samples than the budget allows. Several processes hear
        # of a command where they agree on an interval, and so begin with short ones.
        if self._steps <= self._first_steps and not self._agrees:
            return max(ideal, 1)
        return min(max(ideal, self.every // 2, 1), self.every * 2)

    def _is_dear(self) -> bool:
        dear = DEAR_SHARE * median(self._lengths) if self._lengths else math.inf
        return median_low(self._costs) > dear

    def hasten(self) -> None:
        """Sample the next step; after the first few times at most once an interval.

        What that costs is paid back as every sample is: by longer intervals.
        """
        is_due = self._hasty_left > 0 or self._steps - self._hastened >= self.every
        if is_due and not self.fixed:
            self._hasty_left -= 1
            self._hastened, self._next = self._steps, 0

    def forget_costs(self) -> None:
        """Measure anew what samples take: from now on they take less."""
        self._costs.clear()
        self.too_costly = False

    def _schedule(self, every: int) -> None:
        """Let the next sample be `every` steps after the one that is just over."""
        if self._steps >= self._first_steps:
            self.every = every
        self._next = self._steps - 1 + self.every
