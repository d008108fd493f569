"""The API's numbers as arrays."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def floats(text: str) -> Floats:
    """Return base64 of little-endian float32 as an array, (n,)."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
