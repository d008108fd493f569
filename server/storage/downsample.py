"""Downsample steps evenly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Steps = NDArray[np.int64]


def downsample(steps: Steps, most: int) -> Steps:
    """At most `most` of these steps, evenly spread, the first and the last among them."""
    if len(steps) <= most:
        return steps
    if most == 1:
        return steps[-1:]
    # A grid over indices, not over steps: where the interval was short, more was measured.
    return steps[np.linspace(0, len(steps) - 1, most).round().astype(np.int64)]
