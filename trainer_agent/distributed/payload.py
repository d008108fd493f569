"""What one process brings to a sample, and what all have heard with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainer_agent.capture.statistics.accumulator import Sums
from trainer_agent.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a sample before the device has finished it.

    Attributes:
        every: the interval this process wishes for, 0 where it is fixed.
        loss_given: whether the job gave a loss.
    """

    step: int
    plan: Plan
    every: int
    loss_given: bool


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all processes have heard with a sample.

    Attributes:
        every: the interval rank 0 wishes for, 0 where it is fixed.
        words: how many words rank 0 had said by then.
    """

    every: int
    words: int


@dataclass(frozen=True, slots=True)
class Share:
    """What one process brings to a sample; a loss that was not given is None.

    Attributes:
        seen: the fingerprint of what entered its first block.
    """

    outline: Outline
    sums: Sums
    loss: float | None
    gradient_norm: float
    seen: int = 0


def packed(sums: Sums, names: Sequence[str]) -> NDArray[np.float64]:
    """These of the sums' arrays, one after the other, (numbers,)."""
    return np.concatenate([getattr(sums, name).ravel() for name in names])


def unpacked(sums: Sums, names: Sequence[str], flat: NDArray[np.float64]) -> Sums:
    """The sums with these of their arrays in place of their own."""
    own = [getattr(sums, name) for name in names]
    parts = np.split(flat, np.cumsum([one.size for one in own])[:-1])
    shaped = [part.reshape(one.shape) for part, one in zip(parts, own, strict=True)]
    return replace(sums, **dict(zip(names, shaped, strict=True)))


def extras(share: Share) -> tuple[float, float, float]:
    """Loss, whether there is one, and square of the gradient norm: they add up."""
    given = share.loss is not None
    return share.loss or 0.0, float(given), share.gradient_norm**2
