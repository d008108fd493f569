"""Which learning rates ask for a sample: the end of a warm-up, and each sudden change."""

from __future__ import annotations

from enum import Enum
from math import isfinite

SUDDEN = 1.5  # times the rate, up or down, from one step to the next
STEEP = 3.0  # times the rate, upwards: a job may fail of it within a few steps
SMOOTH = 3.0  # times the change before it: a warm-up doubles the rate at its second step
NOTABLE = 0.05  # of the highest rate: a decay ends in steps that halve next to nothing
FIRST_STEPS = 3  # the first changes have none before them
STANDS = 3  # steps in a row without a rise after which a warm-up is over


class Look(Enum):
    """What a step's learning rate asks for."""

    NOT_NEEDED = 0
    SAMPLE = 1
    BURST = 2


class RateChanges:
    """Follows a learning rate; a rate between `low` and `high` needs no call.

    While the rate rises at the start every step is followed; afterwards only what leaves the
    neighbourhood of the last rate that was followed.

    Attributes:
        low, high: the neighbourhood, open at both ends.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0  # no rate lies between
        self._last = self._difference = self._peak = 0.0
        self._steps = self._standing = 0
        self._rose = self._settled = False

    def follow(self, rate: float, before: float | None = None) -> Look:
        """Take the rate of a step, and that of the step before it where it is known."""
        if not (isfinite(rate) and rate >= 0):
            return Look.NOT_NEEDED
        last = self._last if before is None or not self._settled else before
        first, self._steps = self._steps == 0, self._steps + 1
        difference = 0.0 if first else rate - last
        look = Look.NOT_NEEDED if first else self._sudden(last, rate, difference)
        if look is Look.NOT_NEEDED and not self._settled:
            look = self._warm_up(difference)
        self._settled = self._settled or look is not Look.NOT_NEEDED
        self._difference, self._last = difference or self._difference, rate
        self._look_around(rate)
        return look

    def _sudden(self, last: float, rate: float, difference: float) -> Look:
        low, high = sorted((last, rate))
        self._peak = max(self._peak, high)
        smooth = not self._settled and (
            abs(difference) <= SMOOTH * abs(self._difference) or self._steps <= FIRST_STEPS
        )
        notable = abs(difference) >= NOTABLE * self._peak
        if low == high or high < SUDDEN * low or smooth or not notable:
            return Look.NOT_NEEDED
        return Look.BURST if rate >= STEEP * last else Look.SAMPLE

    def _warm_up(self, difference: float) -> Look:
        """Whether a rise from the start on is over."""
        if difference > 0:
            self._rose, self._standing = True, 0
            return Look.NOT_NEEDED
        self._standing += 1
        if difference == 0 and self._standing < STANDS:
            return Look.NOT_NEEDED
        self._settled = True
        return Look.SAMPLE if self._rose else Look.NOT_NEEDED

    def _look_around(self, rate: float) -> None:
        if not self._settled:
            self.low = self.high = rate
        elif rate == 0:
            self.low, self.high = -1.0, 1e-300
        else:
            self.low, self.high = rate / SUDDEN, rate * SUDDEN
