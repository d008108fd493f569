"""A clock that no load of the machine moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SteppedClock:
    """Stands still, but for `tick_s` at each reading: so long does work take between readings."""

    now_s: float = 1000.0
    tick_s: float = 0.0

    def __call__(self) -> float:
        self.now_s += self.tick_s
        return self.now_s
