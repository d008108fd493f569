"""Axis ranges that hold every finite value with some air around it, and ticks in few words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dashboard.vectors import Vector

MIN_DECADES = 1.0


def axis_range(curves: Sequence[Vector], *, log: bool) -> tuple[float, float]:
    """Limits of an axis: decades when `log`, at least one of them; else at least 0 to 1."""
    pooled = np.concatenate([np.asarray(curve, dtype=float) for curve in curves] or [np.empty(0)])
    finite = pooled[np.isfinite(pooled)]
    if log:
        positive = np.log10(finite[finite > 0])
        low, high = (positive.min(), positive.max()) if len(positive) else (-1.0, 1.0)
        spare = max(0.0, MIN_DECADES - (high - low)) / 2
    else:
        low, high = min(0.0, finite.min(initial=0.0)), max(1.0, finite.max(initial=1.0))
        spare = 0.0
    air = 0.08 * (high - low + 2 * spare)
    return float(low - spare - air), float(high + spare + air)


def mark_height(low: float, high: float, *, log: bool) -> float:
    """The value, just under the top of the axis, at which non-finite layers are marked."""
    place = high - 0.05 * (high - low)
    return float(10**place) if log else place


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Tick values and labels of a log axis from 10^low to 10^high.

    Whole decades, about five of them; with 2 and 5 between when there are few.
    """
    first, last = math.ceil(low), math.floor(high)
    few = high - low < 2
    stride = max(1, math.ceil((last - first + 1) / 5))
    powers = range(first - few, last + 1, stride)
    values = [factor * 10.0**power for power in powers for factor in ((1, 2, 5) if few else (1,))]
    ticks = [value for value in values if low <= math.log10(value) <= high]
    return ticks, [_label(tick) for tick in ticks]


def _label(value: float) -> str:
    power = math.floor(math.log10(value) + 1e-9)
    if -3 < power < 4:
        return f"{value:g}"
    mantissa = round(value / 10.0**power)
    exponent = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{exponent}" if mantissa == 1 else f"{mantissa}·10{exponent}"
