"""What a process holds of a tensor that lies over several, as torch's `DTensor` says it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def local(tensor: Any) -> Tensor:
    """This process' part of a tensor that may be sharded."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def is_partial(tensor: Any) -> bool:
    """Whether the tensor is the sum of what the processes hold, which no process has formed yet."""
    return any(placement.is_partial() for placement in getattr(tensor, "placements", ()))


def local_part(x: Any) -> Tensor | None:
    """This process' part of a tensor, the tensor itself where it lies in one process.

    None where the tensor is partial: no process holds a single value of it.
    """
    if not hasattr(x, "to_local"):
        tensor: Tensor = x
        return tensor
    return None if is_partial(x) else local(x)


def shards_of(tensor: Any) -> int:
    """Into how many parts a tensor is split; several processes may hold the same part."""
    if not hasattr(tensor, "to_local"):
        return 1
    shards = 1
    for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
        shards *= size if is_split(placement) else 1
    return shards


def is_split(placement: Any) -> bool:
    """Whether the tensor is split along a dimension of the mesh."""
    # Not `is_shard`: a tensor that is split twice has a placement that denies it.
    return not (placement.is_replicate() or placement.is_partial())
