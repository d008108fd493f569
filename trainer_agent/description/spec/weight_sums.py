"""Sums over slices of parameters, of which this process may hold a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer_agent.description.trace.graph import Run

Slice = tuple[str, tuple[Run, ...], int]  # parameter, runs of it, along which dimension
Moments = Mapping[Slice, tuple[float, float]]  # mean, mean of squares
Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WeightSums:
    """What this process holds of some slices.

    Attributes:
        slices: the slices, each once.
        rows: (slices, 3): sum, sum of squares, how many values.
    """

    slices: tuple[Slice, ...]
    rows: Rows

    def added_up(self, add: Callable[[Rows], Rows]) -> WeightSums:
        """The sums over all processes; values that several hold count for each, as all do."""
        return replace(self, rows=add(self.rows))

    @property
    def moments(self) -> Moments:
        """Mean and mean square of each slice."""
        with np.errstate(all="ignore"):
            means = self.rows[:, :2] / self.rows[:, 2:]
        return {key: (float(a), float(b)) for key, (a, b) in zip(self.slices, means, strict=True)}


def weight_sums(parameters: Mapping[str, Tensor], slices: Sequence[Slice]) -> WeightSums:
    """Reduce on the device in float32 and wait for it once.

    Raises KeyError when a parameter is gone.
    """
    distinct = tuple(dict.fromkeys(slices))
    missing = [name for name, _, _ in distinct if name not in parameters]
    if missing:
        raise KeyError(f"the model has no parameter {missing[0]!r}: describe it again")
    pieces = [_pieces(parameters[name].detach(), runs, dim) for name, runs, dim in distinct]
    counts = [float(sum(piece.numel() for piece in of_slice)) for of_slice in pieces]
    sums = [_sums(of_slice) for of_slice in pieces]
    host = torch.stack([total.to(sums[0].device) for total in sums]).tolist() if sums else []
    rows = [(*pair, count) for pair, count in zip(host, counts, strict=True)]
    return WeightSums(distinct, np.array(rows, dtype=np.float64).reshape(-1, 3))


def _sums(pieces: Sequence[Tensor]) -> Tensor:
    """Sum and sum of squares, as one tensor of two."""
    if len(pieces) == 1:
        norm = torch.linalg.vector_norm(pieces[0], dtype=torch.float32)
        return torch.stack([pieces[0].sum(dtype=torch.float32), norm.square()])
    total = torch.stack([piece.sum(dtype=torch.float32) for piece in pieces]).sum()
    norms = [torch.linalg.vector_norm(piece, dtype=torch.float32) for piece in pieces]
    return torch.stack([total, torch.stack(norms).square().sum()])


def _pieces(values: Any, runs: tuple[Run, ...], dim: int) -> list[Tensor]:
    """The runs of a parameter; of a sharded one, what lies here of them, perhaps nothing."""
    local, first = values, 0
    if hasattr(values, "to_local"):
        local = values.to_local()
        first = _first(values, dim) if local.shape[dim] != values.shape[dim] else 0
    last = first + local.shape[dim]
    inside = [(max(start, first), min(stop, last)) for start, stop in runs or ((first, last),)]
    return [local.narrow(dim, a - first, max(b - a, 0)) for a, b in inside if b > a] or [
        local.narrow(dim, 0, 0)
    ]


def _first(values: Any, dim: int) -> int:
    """Which index along `dim` of a sharded parameter the first one here is."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(
        values.shape, values.device_mesh, values.placements
    )
    return int(offset[dim])
