"""Vectors in JSON: base64 of little-endian float32, so that NaN and Inf arrive unchanged."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_f32(values: NDArray[Any]) -> str:
    """The array, row-major, as text."""
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes an honest Inf
        packed = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return base64.b64encode(packed).decode("ascii")
