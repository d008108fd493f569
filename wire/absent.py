"""A value that a step does not have, told apart from a NaN that was measured.

A loss given every tenth step, or a block that a step skipped, has no value at the other steps. The
frame holds `ABSENT` there: one quiet NaN among the many that float32 has, chosen by its payload, as
R marks its missing values. To arithmetic it is a NaN; only its bits tell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ABSENT_BITS = 0x7FC0AB5E
ABSENT = np.uint32(ABSENT_BITS).view(np.float32)


def is_absent(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a float32 array holds `ABSENT`, in the array's shape."""
    bits: NDArray[np.uint32] = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    return np.equal(bits, ABSENT_BITS)
