"""What one process brings to the reduction of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainer_agent.capture.statistics.sums import Sums
from trainer_agent.model.plan import Plan


@dataclass(frozen=True, slots=True)
class SampleHeader:
    """What is known of a sample before the device has finished it.

    Attributes:
        step: number of the optimizer step.
        plan: the places whose sums follow.
        every: the interval in steps that this process's budget asks for, 0 where it is fixed.
        has_loss: whether the job gave a loss.
    """

    step: int
    plan: Plan
    every: int
    has_loss: bool


@dataclass(frozen=True, slots=True)
class Payload:
    """A sample of one process, or of all of them once it is reduced.

    Attributes:
        header: its plan is that of the whole model.
        sums: in the rows of that plan.
        loss: the mean over the processes that gave one, None where none did.
        gradient_norm: of this process's gradients, or of all.
        fingerprint: a number that processes share where they saw the same batch.
    """

    header: SampleHeader
    sums: Sums
    loss: float | None
    gradient_norm: float
    fingerprint: int = 0


def flatten(sums: Sums, names: Sequence[str]) -> NDArray[np.float64]:
    """The arrays of these names, one after the other, (numbers,)."""
    return np.concatenate([getattr(sums, name).ravel() for name in names])


def unflatten(sums: Sums, names: Sequence[str], flat: NDArray[np.float64]) -> Sums:
    """The sums with the arrays of these names replaced by those in `flat`."""
    arrays = [getattr(sums, name) for name in names]
    parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
    shaped = [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]
    return replace(sums, **dict(zip(names, shaped, strict=True)))


def additive_scalars(payload: Payload) -> tuple[float, float, float]:
    """Loss, number of losses and square of the gradient norm: these add up over processes."""
    has_loss = payload.loss is not None
    return payload.loss or 0.0, float(has_loss), payload.gradient_norm**2
