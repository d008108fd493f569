"""What a tensor's values are when the job multiplies it."""

from __future__ import annotations

import torch
from torch import Tensor


def as_multiplied(x: Tensor) -> Tensor:
    """`x` rounded to what autocast multiplies in, where it is on; as float32, or float64."""
    if x.dtype == torch.float64:
        return x
    kind = x.device.type
    return (x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x).float()
