"""The norm of all gradients of an optimizer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer_agent.model.dtensor import is_partial, local, shards_of


@torch.no_grad()
def gradient_norm(optimizer: Optimizer) -> Tensor | None:
    """2-norm over the gradients of every parameter, (), on the device.

    None where there is no gradient, or where one is partial (sequence parallelism): its norm is
    known once the processes have added up their parts. Of sharded gradients each process has a
    part; its squares count once for every shard, so that the mean over the processes of the
    squared norms is the square of the norm of all shards.
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
    parts = [local(gradient) for gradient in gradients]
    norms = torch._foreach_norm(parts, 2, dtype=torch.float32)
    stacked = torch.stack([norm.to(norms[0].device) for norm in norms])
    shards = [shards_of(gradient) for gradient in gradients]
    if set(shards) != {1}:
        stacked *= torch.tensor(shards, device=stacked.device).sqrt()
    total: Tensor = torch.linalg.vector_norm(stacked)
    return total
