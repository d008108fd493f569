"""What is predicted one block ahead, and in which form a block's part of it is followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dslm.ahead import gains
from dslm.ahead.slow_mean import Floats

LEAST = 1e-37  # a variance of 0 reads as this, near the least normal float32


@dataclass(frozen=True, slots=True)
class Quantity:
    """One measured series and what is followed of it.

    Attributes:
        site, quantity: the series.
        sample: what each block does: (steps, n) as measured becomes (steps, N).
        floor: least usual error of a sample; in natural logarithms, or a difference of
            correlations.
        logarithmic: whether samples are logarithms.
        direction: 1 where a block makes index l+1 of index l, -1 where it makes l of l+1, 0 where
            its value is its own.
    """

    site: str
    quantity: str
    sample: Callable[[Floats], Floats]
    floor: float
    logarithmic: bool = True
    direction: int = 0

    def width(self, n: int) -> int:
        """How many blocks a series of length `n` speaks of."""
        return n - abs(self.direction)

    def start(self, values: Floats) -> Floats:
        """The layer that no block makes, as it is followed: (steps, n) becomes (steps, 1)."""
        if not self.direction:
            return np.zeros((len(values), 1))
        start = values[:, :1] if self.direction > 0 else values[:, -1:]
        return _level(start) if self.logarithmic else start


def _level(values: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return np.log(np.where(values < LEAST, LEAST, values))


def _share(values: Floats) -> Floats:
    """The logarithm over the blocks' median: what moves all blocks alike is no block's."""
    logs = _level(values)
    if logs.shape[-1] < FEWEST:
        return np.full_like(logs, np.nan)
    ordered = np.sort(logs, axis=-1)  # NaN last
    n = np.isfinite(logs).sum(-1, keepdims=True)
    middle = np.take_along_axis(ordered, np.maximum(n - 1, 0) // 2, axis=-1)
    with np.errstate(invalid="ignore"):
        return logs - middle


def _forward(values: Floats) -> Floats:
    return gains.forward_gain(_positive(values))


def _backward(values: Floats) -> Floats:
    return gains.backward_gain(_positive(values))


def _positive(values: Floats) -> Floats:
    return np.where(values < LEAST, LEAST, values)


FEWEST = 3  # blocks that have a median worth the name

#: What is expected one block ahead, by the name after `innovation/`.
QUANTITIES = {
    "variance": Quantity("stream", "variance", _forward, floor=0.01, direction=1),
    "correlation": Quantity(
        "stream",
        "correlation",
        gains.correlation_step,
        floor=0.002,
        logarithmic=False,
        direction=1,
    ),
    "gradient": Quantity("stream_gradient", "variance", _backward, floor=0.01, direction=-1),
    "attention": Quantity("attention", "variance", _level, floor=0.02),
    "feed_forward": Quantity("feed_forward", "variance", _level, floor=0.02),
    "attention_logits": Quantity("attention_logits", "variance", _level, floor=0.02),
    "attention_bits": Quantity("attention", "bits", _level, floor=0.02),
    "feed_forward_bits": Quantity("feed_forward", "bits", _level, floor=0.02),
    "updates": Quantity("updates", "ratio", _share, floor=0.02),
    "weights": Quantity("weights", "rms", _level, floor=0.0003),
    "weight_gradients": Quantity("weight_gradients", "rms", _share, floor=0.02),
}
