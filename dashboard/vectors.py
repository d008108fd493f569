"""Vectors as the API sends them: base64 of little-endian float32, NaN and Inf unchanged."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Values = Sequence[float] | Vector


def decode(text: str) -> Vector:
    """The vector behind a field whose name ends in ``_f32``, shape (values,)."""
    # In double precision, as JavaScript counts: both sides then draw the same axes.
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float64)


def relative_to_top(variance: Vector) -> Vector:
    """Gradient variances, shape (layers + 1,), over that of the top layer, as predictions are."""
    if not len(variance):
        return variance
    # A vanished or overflowed gradient at the top leaves NaN and Inf, which the charts mark.
    with np.errstate(all="ignore"):
        return np.asarray(variance / variance[-1])


def number(value: float | None) -> float:
    """A number of the API; NaN for null."""
    return math.nan if value is None else value
