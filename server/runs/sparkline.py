"""A run's loss in at most 60 points, extended while frames arrive instead of read back."""

from __future__ import annotations

import math
from collections.abc import Iterable

from server.runs.rows import Sparkline

POINTS = 60


def empty() -> Sparkline:
    """The sparkline of a run without frames."""
    return {"stride": 1, "seen": 0, "values": []}


def extend(line: Sparkline, losses: Iterable[float]) -> Sparkline:
    """The sparkline after more losses; a loss that is not finite is a gap.

    A full line drops every other point and doubles its stride: how the losses were split into
    batches does not change which points stay.
    """
    stride, count, values = line["stride"], line["seen"], list(line["values"])
    for loss in losses:
        if count % stride == 0:
            if len(values) == POINTS:
                values, stride = values[::2], stride * 2
            if count % stride == 0:
                values.append(loss if math.isfinite(loss) else None)
        count += 1
    return {"stride": stride, "seen": count, "values": values}
