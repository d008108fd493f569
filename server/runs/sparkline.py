"""A run's loss in at most 60 points, kept while frames arrive instead of read back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypedDict

POINTS = 60


class Sparkline(TypedDict):
    """Every `stride`-th loss so far, and how many there were."""

    stride: int
    seen: int
    values: list[float | None]


def empty() -> Sparkline:
    """The sparkline of a run without frames."""
    return Sparkline(stride=1, seen=0, values=[])


def extend(line: Sparkline, losses: Iterable[float]) -> Sparkline:
    """The sparkline after more losses; a loss that is not finite is a gap."""
    stride, seen, values = line["stride"], line["seen"], list(line["values"])
    for loss in losses:
        if seen % stride == 0:
            if len(values) == POINTS:
                values, stride = values[::2], stride * 2
            if seen % stride == 0:
                values.append(loss if math.isfinite(loss) else None)
        seen += 1
    return Sparkline(stride=stride, seen=seen, values=values)
