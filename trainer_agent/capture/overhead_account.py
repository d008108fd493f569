"""What the agent takes of the job's time, by purpose."""

from __future__ import annotations

import time
from collections import defaultdict

# What a description costs: it does not recur with every sample.
ONCE = "description"
# Work of the agent's own threads for every sample, and for what does not recur.
BACKGROUND, BACKGROUND_ONCE = "background", "background, once"
# Scalars of steps that are not sampled: what they take belongs to no sample.
SCALARS = "scalars"
# A hook takes more of the training thread than its own body: torch calls it, and the job reads
# again what it displaced from the caches. Measured on the CPU, 12 and 24 layers of width 64: 1.08
# to 1.13 times as much.
AROUND = 1.1


class OverheadAccount:
    """Seconds that the agent has taken since the start.

    Any thread may add to it; each purpose is added to by one thread at a time.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def charge(self, purpose: str, started: float) -> None:
        """Add the training thread's time since `started`, as `time.perf_counter` gave it."""
        self._seconds[purpose] += AROUND * (time.perf_counter() - started)

    def add(self, purpose: str, seconds: float) -> None:
        """Add seconds that were measured otherwise."""
        self._seconds[purpose] += seconds

    def of(self, purpose: str) -> float:
        """Seconds taken for this purpose."""
        return self._seconds[purpose]

    def total(self) -> float:
        """Seconds taken for all purposes."""
        # Another thread may add a purpose meanwhile: copied at once.
        return sum(tuple(self._seconds.values()))

    def recurrent(self) -> float:
        """Seconds that the training thread has taken for what recurs with every sample."""
        seconds = self._seconds
        once = seconds[ONCE] + seconds[BACKGROUND_ONCE] + seconds[SCALARS]
        return sum(tuple(seconds.values())) - once - seconds[BACKGROUND]
