"""Vectors as the API sends them: base64 of little-endian float32, NaN and Inf unchanged."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def decode(text: str) -> Vector:
    """The vector behind a field whose name ends in ``_f32``, shape (values,)."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float64)


def curve(fields: Mapping[str, Any] | None, n: int) -> dict[str, Vector]:
    """A `Curve`'s vectors by name without ``_f32``; all NaN, shape (n,), where there is none."""
    names = ("variance", "correlation")
    keys = [f"{name}{edge}" for name in names for edge in ("", "_low", "_high")]
    found = fields or {}
    return {
        key: decode(found[f"{key}_f32"]) if f"{key}_f32" in found else np.full(n, np.nan)
        for key in keys
    }


def relative_to_top(variance: Vector) -> Vector:
    """Gradient variances over the last one's, as the predictions are."""
    if not len(variance):
        return variance
    with np.errstate(all="ignore"):
        return np.asarray(variance / variance[-1])


def number(value: Any) -> float:
    """A JSON number of the API, where non-finite ones travel as strings and none is null."""
    return math.nan if value is None else float(value)
