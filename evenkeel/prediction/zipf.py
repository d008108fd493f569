"""Token ids for a model that has no batch: draws from Zipf's law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BATCH = 8


def zipf_ids(vocabulary: int, context: int, reserved: Sequence[int] = ()) -> NDArray[np.int64]:
    """Return (batch, context) ids drawn from Zipf's law, the same in every call.

    The most frequent id is the lowest. Those in `reserved`, such as padding, are never drawn.
    """
    ids = np.delete(np.arange(vocabulary), sorted(set(reserved)))
    weights = 1.0 / np.arange(1, len(ids) + 1)
    draw = np.random.default_rng(0)
    return np.asarray(draw.choice(ids, size=(BATCH, context), p=weights / weights.sum()))
