"""The norm of all gradients of an optimizer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer_agent.model.dtensor import is_partial, local, shards_of

# Norms of a tensor and of its multiple agree to this, in float32.
NORM_ACCURACY = 2e-6
# A factor this close to one over a whole number divides by it.
QUOTIENT_ACCURACY = 1e-6


@dataclass(frozen=True, slots=True)
class GradientReading:
    """The gradients of an optimizer at one moment, by their norms.

    Attributes:
        norms: of each gradient, (n,), on the device, in float32.
        gradients, versions: the tensors, and how often each was written to.
        accuracy: relative, of what the gradients' type can hold.
    """

    norms: Tensor
    gradients: tuple[ref[Tensor], ...]
    versions: tuple[int, ...]
    accuracy: float

    def total(self) -> Tensor:
        """2-norm over all of them, ()."""
        norm: Tensor = torch.linalg.vector_norm(self.norms)
        return norm

    def divided(self, scale: Tensor | None) -> GradientReading:
        """The same gradients without a loss scale."""
        if scale is None:
            return self
        return replace(self, norms=self.norms / scale.to(self.norms.device))

    def is_current(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer's gradients are still these, unchanged."""
        gradients = _gradients(optimizer)
        return len(gradients) == len(self.gradients) and all(
            tensor() is gradient and version == gradient._version and not _is_sharded(gradient)
            for tensor, version, gradient in zip(
                self.gradients, self.versions, gradients, strict=True
            )
        )

    def may_be_written(self, later: GradientReading, most: int) -> bool:
        """Whether each gradient is the same tensor, written to equally often, 1 to `most` times."""
        pairs = zip(self.gradients, later.gradients, strict=False)
        if len(self.gradients) != len(later.gradients) or any(
            before() is None or before() is not after() for before, after in pairs
        ):
            return False
        if any(_is_sharded(tensor()) for tensor in self.gradients):
            return True  # a sharded tensor does not count the writes to its part
        # Views of one buffer, as DDP's gradients may be, count the writes to all of them together.
        shared = Counter(_storage(tensor()) for tensor in self.gradients)
        counts = [after - n for n, after in zip(self.versions, later.versions, strict=True)]
        views = [shared[_storage(tensor())] for tensor in self.gradients]
        return any(
            all(count == n * view for count, view in zip(counts, of, strict=True))
            for n in range(1, most + 1)
            for of in ([1] * len(views), views)
        )


@torch.no_grad()
def read_gradients(optimizer: Optimizer) -> GradientReading | None:
    """The gradients of every parameter of an optimizer.

    None where there is none, or where one is partial (sequence parallelism): its norm is
    known once the processes have added up their parts. Of sharded gradients each process has a
    part; its squares count once for every shard, so that the mean over the processes of the
    squared norms is the square of the norm of all shards.
    """
    gradients = _gradients(optimizer)
    if not gradients or any(map(is_partial, gradients)):
        return None
    # In float32: squares of half-precision gradients overflow or vanish.
    parts = [_values(gradient) for gradient in gradients]
    norms = torch._foreach_norm(parts, 2, dtype=torch.float32)
    stacked = torch.stack([norm.to(norms[0].device) for norm in norms])
    shards = [shards_of(gradient) for gradient in gradients]
    if set(shards) != {1}:
        stacked *= torch.tensor(shards, device=stacked.device).sqrt()
    versions = tuple(gradient._version for gradient in gradients)
    dtypes = {part.dtype for part in parts}
    accuracy = max(NORM_ACCURACY, *(torch.finfo(dtype).eps for dtype in dtypes))
    return GradientReading(stacked, tuple(map(ref, gradients)), versions, accuracy)


def gradient_norm(optimizer: Optimizer) -> Tensor | None:
    """2-norm over the gradients of every parameter, (), on the device; None as above."""
    reading = read_gradients(optimizer)
    return None if reading is None else reading.total()


@torch.no_grad()
def norm_before_clipping(before: GradientReading, now: GradientReading, writes: int) -> Tensor:
    """The norm of the gradients that an optimizer is given, (), before they were clipped.

    Clipping by norm multiplies every gradient once, by the same factor below 1. Where that is all
    that has happened since the backward pass, it is the norm `before`. Else it is the norm `now`:
    gradients have been added, divided by the number of micro-batches, or changed one by one.

    Args:
        before: as the backward pass left the gradients, without a loss scale.
        now: as the optimizer finds them.
        writes: how often each gradient may have been written to: once more for a loss scale.
    """
    if not before.may_be_written(now, writes):
        return now.total()
    total, total_now = before.total(), now.total()
    factor = total_now / total
    differences = torch.linalg.vector_norm(now.norms - factor * before.norms)
    divisor = 1 / factor
    divided = (divisor - divisor.round()).abs() <= QUOTIENT_ACCURACY * divisor
    clipped = (factor < 1 - now.accuracy) & (differences <= now.accuracy * total_now) & ~divided
    return torch.where(clipped, total, total_now)


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    groups = optimizer.param_groups
    gradients = (parameter.grad for group in groups for parameter in group["params"])
    return [gradient for gradient in gradients if gradient is not None]


def _values(gradient: Tensor) -> Tensor:
    if gradient.is_sparse:  # it may hold a row several times
        return gradient.coalesce().values()
    part = local(gradient)
    return torch.view_as_real(part) if part.is_complex() else part


def _is_sharded(tensor: Any) -> bool:
    return hasattr(tensor, "to_local")


def _storage(tensor: Any) -> int:
    return 0 if tensor.is_sparse else int(tensor.untyped_storage().data_ptr())
