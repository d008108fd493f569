"""How arrays lie in segments: raw little-endian values under zstd."""

from __future__ import annotations

from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

LEVEL = 3  # zstd's default


def pack(values: NDArray[Any], dtype: str) -> bytes:
    """The array, row-major, as this dtype, compressed."""
    return zstandard.compress(np.ascontiguousarray(values, dtype=dtype).tobytes(), LEVEL)


def unpack(data: bytes, dtype: str) -> NDArray[Any]:
    """The flat array of this dtype, read-only."""
    return np.frombuffer(zstandard.decompress(data), dtype=dtype)


def pack_series(values: NDArray[np.float32]) -> bytes:
    """A series of a segment, shape (frames, n), NaN and Inf included.

    The four bytes of each float lie in four planes, and frames run fastest: neighbours in time
    share their upper bytes, so that zstd finds long repetitions.
    """
    planes = np.ascontiguousarray(values.T, dtype="<f4").view(np.uint8).reshape(-1, 4).T
    return zstandard.compress(np.ascontiguousarray(planes).tobytes(), LEVEL)


def unpack_series(data: bytes, n_frames: int) -> NDArray[np.float32]:
    """What `pack_series` packed, shape (frames, n)."""
    planes = np.frombuffer(zstandard.decompress(data), dtype=np.uint8).reshape(4, -1)
    flat = np.ascontiguousarray(planes.T).view("<f4").reshape(-1)
    return np.ascontiguousarray(flat.reshape(-1, n_frames).T)
