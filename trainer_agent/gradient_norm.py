"""The norm of all gradients of an optimizer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer


@torch.no_grad()
def gradient_norm(optimizer: Optimizer) -> Tensor | None:
    """2-norm over every parameter's gradient, on the device; None where there is none."""
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None and not parameter.grad.is_sparse
    ]
    if not gradients:
        return None
    # In float32: squares of half-precision gradients overflow or vanish.
    norms = torch._foreach_norm(gradients, 2, dtype=torch.float32)
    together = torch.stack([norm.to(norms[0].device) for norm in norms])
    total: Tensor = torch.linalg.vector_norm(together)
    return total
