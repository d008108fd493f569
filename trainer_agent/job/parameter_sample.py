"""Evenly spread values of parameters, read together: cheap enough for every sampled step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from trainer_agent.model.dtensor import local, shards_of

# Values of one tensor that stand for all of it.
SAMPLED_VALUES = 1024
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """Tensors on one device, of one type, of which equally many values are read.

    Attributes:
        positions: of the tensors, among all parameters.
        views: of the values, (n,) each.
        scales: how many values of all processes' tensors each value stands for, (tensors,).
        counts: how many values each tensor has in all processes, (tensors,).
        rows: each tensor's row of the sums, (tensors,), where the sums are.
    """

    positions: tuple[int, ...]
    views: tuple[Tensor, ...]
    scales: Tensor
    counts: Tensor
    rows: Tensor

    def values(self) -> Tensor:
        """A copy of the values as they are now, (tensors, n), at least float32."""
        copy = torch.cat(self.views).view(len(self.views), -1)
        return copy if copy.dtype in (torch.float32, torch.float64) else copy.float()

    @property
    def is_half(self) -> bool:
        """Whether the weights themselves are of half precision."""
        return self.views[0].dtype in HALF

    def trained(self, has_gradient: Sequence[bool]) -> Tensor | None:
        """1 for each tensor that has a gradient, else 0, (tensors,); None where all have."""
        flags = tuple(has_gradient[position] for position in self.positions)
        return None if all(flags) else _on_device(flags, self.scales.device)


@dataclass(frozen=True, slots=True)
class ParameterSample:
    """At most `SAMPLED_VALUES` evenly spread values of each of some parameters.

    The views stay true while the parameters are updated in place, which optimizers do.

    Attributes:
        memory: address of each parameter's values; empty where the views are copies.
    """

    groups: tuple[SampleGroup, ...]
    memory: tuple[int, ...]

    def still_shows(self, parameters: Sequence[Tensor]) -> bool:
        """Whether the views read the memory of these parameters."""
        return self.memory == _memory(parameters)


def sample_of(
    parameters: Sequence[Tensor], rows: Sequence[int], device: torch.device
) -> ParameterSample:
    """Views of evenly spread values of these parameters; of sharded ones, of this process's part.

    Parameters without values here, and those of whole numbers, are left out. What is not contiguous
    is copied, so that such a sample shows nothing later.

    Args:
        parameters: of an optimizer.
        rows: of the sums that each adds to.
        device: of the sums.
    """
    groups: dict[tuple[torch.device, torch.dtype, int], list[tuple[int, Tensor, float]]] = {}
    for position, parameter in enumerate(parameters):
        part = local(parameter).detach()
        if not part.numel() or not (part.is_floating_point() or part.is_complex()):
            continue
        part = torch.view_as_real(part) if part.is_complex() else part
        view = part.reshape(-1)[:: stride(part.shape)]
        scale = part.numel() * shards_of(parameter) / len(view)
        group = groups.setdefault((view.device, view.dtype, len(view)), [])
        group.append((position, view, scale))
    in_place = all(local(parameter).is_contiguous() for parameter in parameters)
    return ParameterSample(
        tuple(_group(members, rows, device) for members in groups.values()),
        _memory(parameters) if in_place else (),
    )


def _group(
    members: Sequence[tuple[int, Tensor, float]], rows: Sequence[int], device: torch.device
) -> SampleGroup:
    positions, views, scales = zip(*members, strict=True)
    of_value = torch.tensor(scales, dtype=torch.float32, device=views[0].device)
    return SampleGroup(
        positions,
        views,
        of_value,
        of_value * len(views[0]),
        torch.tensor([rows[position] for position in positions], device=device),
    )


@lru_cache(maxsize=64)
def _on_device(flags: tuple[bool, ...], device: torch.device) -> Tensor:
    """The flags on the device; brought there once, because that waits."""
    return torch.tensor(flags, device=device)


def square_sums(values: Tensor) -> Tensor:
    """Sums of squares of (tensors, n), (tensors,)."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=1)
    return norms.square()


def stride(shape: Sequence[int]) -> int:
    """The least distance between sampled values that keeps to the limit and meets every column."""
    step = -(-math.prod(shape) // SAMPLED_VALUES)
    columns = shape[-1] if shape else 1
    while step > 1 and math.gcd(step, columns) > 1:
        step += 1
    return max(step, 1)


def _memory(parameters: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(local(parameter).data_ptr() for parameter in parameters)
