"""Which steps are sampled: every so many, or as many as a budget allows."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

# Sampled whatever they cost, so that a page has something to show at once.
FIRST_STEPS = 4
# A budget that allows a sample less often than this asks for cheaper samples.
PATIENCE_S = 60.0


class Sampler:
    """Decides after every step whether the next one is sampled.

    With `every` fixed, the steps whose number it divides. With a budget, the first four and then
    steps `every` apart, where `every` follows the measured cost: the time one sample takes over
    the time the budget grants per step, half of it while the start is being paid back. From one
    sample to the next `every` at most doubles or halves.

    Attributes:
        every: sampling interval in steps now in force.
        fixed: whether it stays as it is.
        impatient: whether the budget allows less than a sample a minute.
    """

    def __init__(self, every: int | None, overhead: float) -> None:
        self.every = every or 1
        self.impatient = False
        self.fixed, self._overhead = every is not None, overhead
        self._seen, self._next = 0, 0
        self._costs: deque[float] = deque(maxlen=5)
        self._lengths: deque[float] = deque(maxlen=9)
        self._balance_s = 0.0

    def sampled(self, step: int) -> bool:
        """Whether step number `step`, the next to run, is sampled."""
        if self.fixed:
            return step % self.every == 0
        return self._seen < FIRST_STEPS or self._seen >= self._next

    def unsampled_from(self, step: int) -> int:
        """How many steps from number `step` on, the next to run, are surely not sampled."""
        if self.fixed:
            return -step % self.every
        return 0 if self._seen < FIRST_STEPS else max(self._next - self._seen, 0)

    def steps_over(self, steps: int, length_s: float, spent_s: float) -> None:
        """Note some steps: how long they were together and how much of that the agent took."""
        self._seen += steps
        self._lengths.append(max(length_s - spent_s, 1e-9) / steps)
        self._balance_s += self._overhead * length_s - spent_s

    def sample_over(self, cost_s: float, agreed: int | None = None) -> None:
        """Note what one sample takes, apart from what happens once, and choose the interval.

        `agreed` is the interval that several processes have agreed on.
        """
        self._costs.append(cost_s)
        if not self.fixed:
            self._follow(agreed or self.wish())

    def wish(self) -> int:
        """The interval that the budget asks for now."""
        granted = self._overhead if self._balance_s >= 0 else self._overhead / 2
        if not self._costs or not self._lengths:
            return self.every
        length_s = median(self._lengths)
        ideal = math.ceil(median(self._costs) / (granted * length_s))
        self.impatient = ideal > 1 and ideal * length_s > PATIENCE_S
        return min(max(ideal, self.every // 2, 1), self.every * 2)

    def _follow(self, every: int) -> None:
        """Let the next sample be `every` steps after the one that is just over."""
        if self._seen >= FIRST_STEPS:
            self.every = every
        self._next = self._seen - 1 + self.every

    def cheaper(self) -> None:
        """Forget what samples took: from now on they take less."""
        self._costs.clear()
        self.impatient = False
