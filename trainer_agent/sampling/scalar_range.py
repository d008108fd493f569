"""The range in which a scalar of the job is expected, from its last values."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from math import isfinite

import numpy as np

WINDOW, FEWEST = 32, 16
MOST_PARTS = 16
# Above the median by a share of it, and by a distance in robust standard deviations.
RISE, SIGMAS = 0.3, 6.0
ANY_FINITE = sys.float_info.max


class ScalarRange:
    """What is far above the last values of a scalar, which may rise and fall slowly.

    Attributes:
        limit: a value is in range as long as it is at most this; NaN and Inf never are.
    """

    def __init__(self, *, rise: float = RISE) -> None:
        self._rise = rise
        self._values: deque[float] = deque(maxlen=WINDOW)
        self.limit = ANY_FINITE

    def extend(self, values: Sequence[float]) -> bool:
        """Take more values; returns whether one of them was out of the range of those before it."""
        out_of_range = False
        # In parts, so that what comes together is compared with itself; in few, since the range
        # takes longer to compute than the comparison.
        size = max(WINDOW // 4, -(-len(values) // MOST_PARTS))
        for start in range(0, len(values), size):
            part = values[start : start + size]
            out_of_range |= any(not value <= self.limit for value in part)
            self._values.extend(value for value in part if isfinite(value))
            if len(self._values) >= FEWEST:
                self.limit = self._limit()
        return out_of_range

    def _limit(self) -> float:
        values = np.array(self._values)
        median, differences = float(np.median(values)), np.diff(values)
        spread = float(np.median(np.abs(differences - np.median(differences))))
        # A difference of two values has twice the variance of one.
        noise = 1.4826 * spread / 2**0.5
        return median + max(self._rise * abs(median), SIGMAS * noise)
