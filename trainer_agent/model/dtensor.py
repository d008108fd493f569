"""What a process holds of a tensor that lies over several, as torch's `DTensor` says it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


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
