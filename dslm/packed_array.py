"""Arrays in JSON: their shape, and their values as compressed float32 in base64."""

from __future__ import annotations

import math
import zlib
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dslm.errors import SpecError

MAX_VALUES = 2**24  # a 4096 × 4096 kernel; keeps a hostile body from filling memory


class PackedArray(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array's shape, and its values in C order: little-endian float32, zlib-compressed.

    msgspec writes `f32` as base64 text.
    """

    shape: tuple[int, ...]
    f32: bytes

    def unpack(self) -> NDArray[np.float32]:
        """Return the array.

        Raises:
            SpecError: if the shape is impossible or larger than `MAX_VALUES`, or the values do
                not fill it.
        """
        too_large = any(not 0 <= n <= MAX_VALUES for n in self.shape)
        if too_large or math.prod(self.shape) > MAX_VALUES:
            raise SpecError("shape", f"give sizes of 0 or more and at most {MAX_VALUES} values")
        n_bytes = math.prod(self.shape) * 4
        values = _inflate(self.f32, n_bytes)
        if len(values) != n_bytes:
            raise SpecError("f32", f"give {n_bytes} bytes, as `shape` says, not {len(values)}")
        return np.frombuffer(values, dtype="<f4").reshape(self.shape)


def pack(array: NDArray[Any]) -> PackedArray:
    """Return `array` packed; values beyond float32's range become infinite."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return PackedArray(array.shape, zlib.compress(values, 6))


def _inflate(compressed: bytes, n_bytes: int) -> bytes:
    try:  # one byte more than needed shows that there are more, without inflating them all
        return zlib.decompressobj().decompress(compressed, n_bytes + 1)
    except zlib.error:
        raise SpecError("f32", "give base64 of zlib-compressed float32 values") from None
