"""Forward passes whose tensors stand for others."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether one of `torch.func`'s transforms is at work, or forward-mode differentiation."""
    transforms = torch._C._functorch.peek_interpreter_stack()
    return transforms is not None or forward_ad._current_level >= 0
