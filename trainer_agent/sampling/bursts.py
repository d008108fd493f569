"""Bursts: every step sampled for a while, because the server asks for it, or a scalar jumped."""

from __future__ import annotations

import logging
import time

from wire import Command

logger = logging.getLogger("evenkeel")
MAX_STEPS = 256
SUSPICION_STEPS = 16
# What bursts may take beyond their share: the first one is not held up by a job that just began.
GRACE_S = 1.0


class Bursts:
    """Counts a burst's steps and keeps its cost within bounds.

    All bursts of a job together take at most one more budget: its `overhead` of the time since
    the start, and one second. A burst that would pass that bound ends early and says so. Without
    an `overhead` the number of steps, at most 256, is the only bound: where the interval is fixed,
    and in jobs of several processes, which cut a burst to what is affordable before it begins.

    Where there is an `overhead`, a suspicion of the job's own begins a burst, too: a short one, and
    another only once the budget has earned what it cost.

    Attributes:
        last_id: id of the last burst that was begun or refused, "" before the first.
        left: steps that the running burst still has.
        note: how the last burst ended early, or why it was refused; else "".
        layers: the layers it is about, or None for all.
    """

    def __init__(self, *, overhead: float | None) -> None:
        self.last_id, self.left, self.note = "", 0, ""
        self.layers: frozenset[int] | None = None
        self._overhead = overhead
        self._requested: Command | None = None
        self._suspected = self._is_own = False
        self._paid_back_at = 0.0
        self._began = time.perf_counter()
        self._spent_s = self._last_s = 0.0
        self._steps = 0

    @property
    def waiting(self) -> bool:
        """Whether a burst is requested and not yet begun."""
        return self._requested is not None

    def request(self, command: Command) -> None:
        """Begin a burst with the next step; called from any thread."""
        self._requested = command

    def suspect(self) -> None:
        """A scalar has left its range: look closer; called from any thread."""
        self._suspected = True

    def refuse(self, command: Command, reason: str) -> None:
        """Begin no burst, and say why."""
        self.last_id, self.note = command.id, f"no burst: {reason}"

    def affordable(self, steps: int, overhead: float, cost_s: float) -> int:
        """How many of `steps` the bound allows at this cost a sample."""
        left_s = overhead * (time.perf_counter() - self._began) + GRACE_S - self._spent_s
        return max(0, min(steps, MAX_STEPS, int(left_s / max(cost_s, 1e-9))))

    def charge(self, cost_s: float) -> None:
        """Note what a sample took that was taken for a burst alone."""
        self._last_s = cost_s
        self._spent_s += cost_s
        if self._is_own and self._overhead:
            self._paid_back_at += cost_s / self._overhead

    def wants_next(self) -> bool:
        """Whether the step that comes next belongs to a burst; asked once a step."""
        requested, self._requested = self._requested, None
        # The server repeats a command until it hears of its end.
        suspected, self._suspected = self._suspected, False
        if requested is not None and requested.id != self.last_id:
            self._begin(requested)
        elif suspected and self._overhead and not self.left:
            self._begin_own()
        if not self.left:
            return False
        if self._overhead is not None and self._spent_s + self._last_s > self._granted_s():
            if self._is_own:
                self.left = 0
                return False
            self.note = f"a burst ended after {self._steps - self.left} of {self._steps} steps: "
            self.note += "more would have cost more than bursts may take"
            logger.info("evenkeel: %s", self.note)
            self.left = 0
            return False
        self.left -= 1
        return True

    def _begin_own(self) -> None:
        now = time.perf_counter()
        if now >= self._paid_back_at:
            self._is_own, self._paid_back_at, self.layers = True, now, None
            self._steps = self.left = SUSPICION_STEPS

    def _begin(self, command: Command) -> None:
        self.last_id, self.note, self._is_own = command.id, "", False
        self._steps = self.left = max(0, min(command.steps, MAX_STEPS))
        self.layers = frozenset(command.layers) or None

    def _granted_s(self) -> float:
        return (self._overhead or 0.0) * (time.perf_counter() - self._began) + GRACE_S
