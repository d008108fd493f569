"""When a process takes what was agreed with a sample: at the end of the same step in all."""

from __future__ import annotations

import time
from collections import deque

from trainer_agent.distributed import reducer as group
from trainer_agent.distributed.payload import Agreement
from trainer_agent.distributed.reducer import Ranks

# With a budget the interval is agreed on, too, and samples are far apart.
HEARD_AFTER_SAMPLES = 2
# An agreement is there within milliseconds, and steps take milliseconds at least. Counted in steps
# and not in samples: a burst takes one a step where the interval is a thousand.
HEARD_AFTER_STEPS = 16


class Hearing:
    """Takes agreements and the words they bring. Belongs to the training thread.

    With a budget two samples later; with a fixed interval where the sample lies 16 steps or 16
    samples back. Both follow from the numbers of sampled steps, which are the same in all.
    With a fixed interval training waits at most 5 seconds in all, should agreements be late, and
    then goes on without words, still measured together.
    """

    def __init__(self, ranks: Ranks, *, fixed: bool) -> None:
        self._ranks, self._fixed = ranks, fixed
        self._steps: deque[int] = deque()  # sampled, and what was agreed with them not taken yet
        self._taken = 0
        self._patience_s = group.DECISION_TIMEOUT_S

    def step_over(self, step: int, *, sampled: bool) -> Agreement | None:
        """Take what is to be taken at the end of this step; the last agreement, if any.

        What it says and the words that are due after it hold in all processes.
        """
        ranks, words = self._ranks, self._ranks.words
        agreement = self._newest(step) if sampled and ranks.together else None
        try:
            if agreement is not None:
                words.take(agreement.words, step)
            if not (ranks.together and ranks.listening):
                words.leave()
        except Exception as error:  # the store is gone, and so is the job that it belongs to
            words.end()
            ranks.part(error)
        return agreement

    def _newest(self, step: int) -> Agreement | None:
        self._steps.append(step)
        newest = None
        while self._may_take(step) and self._ranks.listening:
            self._steps.popleft()
            newest = self._next() or newest
        return newest

    def _may_take(self, step: int) -> bool:
        if not self._fixed:
            return len(self._steps) > HEARD_AFTER_SAMPLES
        if not self._steps:
            return False
        # A job may number its steps as it likes, even backwards: then samples are counted.
        far = abs(step - self._steps[0]) >= HEARD_AFTER_STEPS
        return far or len(self._steps) > HEARD_AFTER_STEPS

    def _next(self) -> Agreement | None:
        began = time.perf_counter()
        agreement = self._ranks.agreed_with(self._taken, self._patience_s)
        self._taken += 1
        if self._fixed:
            self._patience_s -= time.perf_counter() - began
        if agreement is None and self._ranks.together:
            late = TimeoutError("the other processes are too late")
            (self._ranks.listen_no_more if self._fixed else self._ranks.part)(late)
        return agreement
