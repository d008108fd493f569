"""The norm of all gradients of an optimizer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer_agent.model.dtensor import is_partial, local, shards_of


@torch.no_grad()
def gradient_norm(optimizer: Optimizer) -> Tensor | None:
    """2-norm over every parameter's gradient, on the device; None where there is none, or where
    processes have yet to add up what each of them holds of one (sequence parallelism).

    Of sharded gradients each process sees a part: its squares count once for every shard, so
    that the mean of the squared norms over the processes is the square of the whole norm.
    """
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None and not parameter.grad.is_sparse
    ]
    if not gradients or any(map(is_partial, gradients)):
        return None
    # In float32: squares of half-precision gradients overflow or vanish.
    norms = torch._foreach_norm([local(one) for one in gradients], 2, dtype=torch.float32)
    together = torch.stack([norm.to(norms[0].device) for norm in norms])
    shards = [shards_of(one) for one in gradients]
    if set(shards) != {1}:
        together *= torch.tensor(shards, device=together.device).sqrt()
    total: Tensor = torch.linalg.vector_norm(together)
    return total
