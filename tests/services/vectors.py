"""Read the vectors of an answer."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray


def from_f32(text: str) -> NDArray[np.float32]:
    """The float32 values of a ``_f32`` field."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")
