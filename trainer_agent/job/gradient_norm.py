"""The norm of all gradients of an optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


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


def local(tensor: Any) -> Tensor:
    """This process' part of a tensor that may be sharded."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def is_partial(gradient: Any) -> bool:
    """Whether processes have yet to add up what each of them holds of a gradient."""
    return any(placement.is_partial() for placement in getattr(gradient, "placements", ()))


def shards_of(tensor: Any) -> int:
    """In how many parts a tensor lies over the processes, each of which may be there repeatedly."""
    if not hasattr(tensor, "to_local"):
        return 1
    shards = 1
    for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
        shards *= size if is_split(placement) else 1
    return shards


def is_split(placement: Any) -> bool:
    """Whether processes hold parts along a dimension of the mesh.

    Asked this way round: what is split twice calls itself no shard.
    """
    return not (placement.is_replicate() or placement.is_partial())
