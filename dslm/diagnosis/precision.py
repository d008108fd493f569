"""The ranges of number formats, and the layers of a curve that lie outside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dslm.spec import Floats

Bools = NDArray[np.bool_]

LARGEST_ENTRY = 6.0  # in standard deviations: of a normal, two entries in 10⁹ are larger
MEDIAN_ENTRY = 0.6745  # median of |x| of a normal, in standard deviations


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A floating-point format by the magnitudes that it represents.

    Attributes:
        name: such as ``"fp16"``.
        largest: greatest finite value.
        smallest_normal: smallest value with a full mantissa.
        smallest_subnormal: smallest value above 0; below half of it a value rounds to 0.
    """

    name: str
    largest: float
    smallest_normal: float
    smallest_subnormal: float

    @property
    def overflow_std(self) -> float:
        """Standard deviation above which an entry of 6 standard deviations overflows."""
        return self.largest / LARGEST_ENTRY

    @property
    def flush_std(self) -> float:
        """Standard deviation below which more than half of all entries round to 0."""
        return self.smallest_subnormal / 2 / MEDIAN_ENTRY


FP16 = NumberFormat("fp16", 65504.0, 2.0**-14, 2.0**-24)
BF16 = NumberFormat("bf16", (2 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-133)
E4M3 = NumberFormat("fp8 e4m3", 448.0, 2.0**-6, 2.0**-9)
E5M2 = NumberFormat("fp8 e5m2", 57344.0, 2.0**-14, 2.0**-16)
FORMATS = (FP16, BF16, E4M3, E5M2)


@dataclass(frozen=True, slots=True)
class Outside:
    """Layers (0 is the input) whose entries a format does not represent as they are.

    Attributes:
        overflow: an entry of 6 standard deviations is beyond the largest value.
        imprecise: the standard deviation lies below the smallest normal value.
        flushed: more than half of all entries round to 0.
    """

    overflow: tuple[int, ...]
    imprecise: tuple[int, ...]
    flushed: tuple[int, ...]


def outside(std: Floats, fmt: NumberFormat) -> Outside:
    """Return the layers of `std`, float64[N+1], outside a format's range; NaN counts as inside."""

    def layers(where: Bools) -> tuple[int, ...]:
        return tuple(int(layer) for layer in np.flatnonzero(where))

    with np.errstate(invalid="ignore"):
        return Outside(
            overflow=layers(std > fmt.overflow_std),
            imprecise=layers(std < fmt.smallest_normal),
            flushed=layers(std < fmt.flush_std),
        )


def loss_scale(std: Floats, fmt: NumberFormat) -> float | None:
    """Return the power of two that brings every layer of `std` into the normal range.

    It is the smallest that lifts the least standard deviation to the smallest normal value, 1 where
    none is needed. None where it would make the largest one overflow, so that no single loss
    scale serves all layers.
    """
    positive = std[np.isfinite(std) & (std > 0)]
    if len(positive) == 0 or len(positive) < np.isfinite(std).sum() or np.isinf(std).any():
        return None
    scale = 2.0 ** max(np.ceil(np.log2(fmt.smallest_normal / positive.min())), 0.0)
    return float(scale) if scale * positive.max() <= fmt.overflow_std else None
