"""Whether what was computed equals what was recognised, within the precision it was computed in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def difference(got: Tensor, want: Tensor) -> float:
    """Root-mean-square difference, relative to the size of `want`; inf for other shapes or NaN."""
    if got.shape != want.shape:
        return float("inf")
    error = (got.float() - want.float()).square().mean().sqrt()
    scale = want.float().square().mean().sqrt()
    ratio = float(error / scale.clamp_min(1e-30))
    return ratio if math.isfinite(ratio) else float("inf")


def close(got: Tensor, want: Tensor) -> bool:
    """Whether two tensors agree within the precision of their dtypes."""
    allowed = max(TOLERANCE.get(t.dtype, 1e-4) for t in (got, want))
    return difference(got, want) <= allowed
