"""What an axis holds, where its ticks are, and what has no place on it.

Translated to JavaScript, see `dashboard.display`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from dashboard.display.numbers import superscript
from dashboard.vectors import Values

MIN_DECADES = 1
AIR = 0.08  # between the extreme values and the edge, as a share of the range
MARKER_DEPTH = 0.05  # of the markers of values without a place, below the upper edge
TICKS = 5


def has_place(value: float, log: bool) -> bool:
    """Whether an axis can show the value: NaN and Inf it cannot, nor zero or less when `log`."""
    return math.isfinite(value) and (value > 0 or not log)


def axis_range(curves: Iterable[Values], log: bool) -> tuple[float, float]:
    """Limits with air around every value that has a place, in decades when `log`.

    A log axis spans at least one decade, so that noise does not look like growth; a linear one
    at least 0 to 1, the range of a correlation.
    """
    low = math.inf
    high = -math.inf
    for curve in curves:
        for value in curve:
            if has_place(value, log):
                low = min(low, value)
                high = max(high, value)
    if not log:
        low, high = min(0, low), max(1, high)
    elif low > high:
        low, high = -1, 1
    else:
        low, high = math.log10(low), math.log10(high)
        spare = max(0, MIN_DECADES - (high - low)) / 2
        low, high = low - spare, high + spare
    air = AIR * (high - low)
    return low - air, high + air


def marker_height(low: float, high: float, log: bool) -> float:
    """The value, just below the upper edge, at which values without a place are marked."""
    height = high - MARKER_DEPTH * (high - low)
    return 10.0**height if log else height


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Tick values and labels of a log axis from 10^low to 10^high.

    Decades, about five of them; on a range of less than two decades also 2 and 5 between them.
    """
    first = math.ceil(low)
    last = math.floor(high)
    narrow = high - low < 2
    stride = max(1, math.ceil((last - first + 1) / TICKS))
    values = []
    labels = []
    # Two and five times the decade below the first may lie inside.
    for power in range(first - 1 if narrow else first, last + 1, stride):
        for factor in [1, 2, 5] if narrow else [1]:
            value = factor * 10.0**power
            if low <= math.log10(value) <= high:
                values.append(value)
                labels.append(_tick_label(factor, power))
    return values, labels


def _tick_label(factor: int, power: int) -> str:
    if -3 < power < 4:
        return f"{factor * 10.0**power:g}"
    return f"10{superscript(power)}" if factor == 1 else f"{factor}·10{superscript(power)}"


def markers(values: Values, log: bool) -> tuple[list[int], list[str]]:
    """Layers whose value has no place on the axis, and why; once for neighbours alike."""
    layers = []
    labels = []
    label_below = ""
    for layer, value in enumerate(values):
        label = "" if has_place(value, log) else _marker_label(value)
        if label != "":
            layers.append(layer)
            labels.append("" if label == label_below else label)
        label_below = label
    return layers, labels


def _marker_label(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "−Inf"
    return "0" if value == 0 else "< 0"
