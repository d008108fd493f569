"""Where a measured curve cannot be drawn as a point, and what to write there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dashboard.vectors import Vector


def flagged(measured: Vector, *, log: bool) -> NDArray[np.intp]:
    """Layers whose value has no place on the axis: NaN, Inf, and on a log axis zero or less."""
    bad = ~np.isfinite(measured)
    if log:
        bad |= np.nan_to_num(measured, nan=1.0) <= 0
    return np.flatnonzero(bad)


def mark_labels(measured: Vector, layers: NDArray[np.intp]) -> list[str]:
    """One word for each flagged layer, written once at the start of a run of equal ones."""
    words = [_word(float(measured[int(layer)])) for layer in layers]
    return [
        "" if i and layers[i - 1] == layer - 1 and words[i - 1] == words[i] else words[i]
        for i, layer in enumerate(layers)
    ]


def _word(value: float) -> str:
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "+Inf" if value > 0 else "−Inf"
    return "0" if value == 0 else "< 0"
