r"""Each layer predicted from what is measured on the near side of its block, and how it differs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dslm.ahead import gains
from dslm.ahead.quantities import QUANTITIES, Quantity
from dslm.ahead.slow_mean import Expected, Floats, Indices, expect

LN2 = float(np.log(2.0))
FAR = 2.0  # bands: a newest sample so far out is believed without the next one


@dataclass(frozen=True, slots=True)
class Ahead:
    """One quantity, one block ahead. Each float64; rows are those asked for, N the blocks.

    Attributes:
        curve, low, high: what is expected of each layer from the measurement on the near side of
            its block, and the band's edges, in the quantity's own units and of its length. The
            layer where it starts, index 0 or for the gradient N, is the measurement.
        reference: the curve that the slow means make of that start alone.
        innovation: (rows, N), log2(measured / expected), for correlations the difference; NaN
            where nothing is expected or measured.
        innovation_low, innovation_high: the band's edges in the same units.
        samples: (rows, N), how many samples each expectation was made of.
        lasting: (rows, N), whether a block departs and the next sample lies on the same side of
            that same band; without a next sample, whether it is twice the band away.
        start: (rows,), the innovation of the layer where the curve starts, which no block makes;
            zeros where every block's value is its own.
        start_high: (rows,), half the width of its band.
    """

    curve: Floats
    low: Floats
    high: Floats
    reference: Floats
    innovation: Floats
    innovation_low: Floats
    innovation_high: Floats
    samples: Floats
    lasting: NDArray[np.bool_]
    start: Floats
    start_high: Floats

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Whether a block departs, (rows, N): beyond its band, or not finite where a band is."""
        return _outside(self.innovation, self.innovation_high)

    @property
    def start_outside(self) -> NDArray[np.bool_]:
        """Whether the layer where the curve starts departs, (rows,)."""
        return _outside(self.start, self.start_high)


def predict_ahead(
    name: str, values: Floats, rows: Indices, *, theory: Floats | None = None
) -> Ahead:
    r"""Predict a quantity one block ahead at each of `rows`, from the samples before.

    With the slow mean :math:`m_l` of block l's gain the layer behind it is expected at
    :math:`\hat\sigma^2_{l+1} = \sigma^2_l e^{m_l}`, from the measured :math:`\sigma^2_l`; its
    innovation is :math:`\log_2(\sigma^2_{l+1} / \hat\sigma^2_{l+1})`. The gradient runs from the
    top down. A miss lies in the block that makes it and is not carried on.

    Args:
        name: one of `QUANTITIES`.
        values: the measured series, (steps, n), ascending by step; NaN where absent.
        rows: the steps asked for, as rows of `values`. Each is predicted from the rows before it.
        theory: theory's curve for the quantity, (n,), in any scale: its gains are what is
            believed before there are samples. None where there is none.

    Source: derived in docs/theory.md; `dslm.ahead.slow_mean` has the mean and the band.
    """
    quantity = QUANTITIES[name]
    samples = quantity.sample(values)
    starts = quantity.start(values)
    prior = None if theory is None else quantity.sample(theory[None])[0]
    expected, at_start = _expected(quantity, samples, starts, rows, prior)
    unit = LN2 if quantity.logarithmic else 1.0
    with np.errstate(invalid="ignore"):
        innovation = (samples[rows] - expected.mean) / unit
    reach = expected.reach / unit
    curves = [
        _curve(quantity, values[rows], expected.mean + s * expected.reach) for s in (0, -1, 1)
    ]
    return Ahead(
        curve=curves[0],
        low=curves[1],
        high=curves[2],
        reference=_reference(quantity, values[rows], expected),
        innovation=innovation,
        innovation_low=-reach,
        innovation_high=reach,
        samples=expected.samples,
        lasting=_lasting(samples, rows, expected),
        start=((starts[rows] - at_start.mean) / unit)[:, 0],
        start_high=(at_start.reach / unit)[:, 0],
    )


def _expected(
    quantity: Quantity, samples: Floats, starts: Floats, rows: Indices, prior: Floats | None
) -> tuple[Expected, Expected]:
    """Of the blocks and of the layer where the curve starts, followed side by side."""
    if prior is not None:
        prior = np.append(prior, np.nan)
    followed = np.concatenate([samples, starts], axis=1)
    both = expect(followed, rows, floor=quantity.floor, prior=prior)
    parts = (both.mean, both.reach, both.samples)
    return (
        Expected(*(part[:, :-1] for part in parts)),
        Expected(*(part[:, -1:] for part in parts)),
    )


def _outside(innovation: Floats, high: Floats) -> NDArray[np.bool_]:
    """Beyond the band; NaN is, where something was expected."""
    with np.errstate(invalid="ignore"):
        return ~(np.abs(innovation) <= high) & np.isfinite(high)


def _lasting(samples: Floats, rows: Indices, expected: Expected) -> NDArray[np.bool_]:
    """Where a sample and the next one lie beyond the band of the first, on the same side."""
    has_next = rows + 1 < len(samples)
    following = samples[np.minimum(rows + 1, len(samples) - 1)]
    with np.errstate(invalid="ignore"):
        off = (samples[rows] - expected.mean) / expected.reach
        next_off = (following - expected.mean) / expected.reach
        stays = ~(np.abs(next_off) <= 1) & ~(np.sign(off) == -np.sign(next_off))
        far = ~(np.abs(off) <= FAR)
        outside = ~(np.abs(off) <= 1) & np.isfinite(expected.reach)
    return outside & np.where(has_next[:, None], stays, far)


def _curve(quantity: Quantity, measured: Floats, mean: Floats) -> Floats:
    """The layers that these gains make of the measured ones, with the first layer in front."""
    with np.errstate(all="ignore"):
        if quantity.direction == 0:
            return np.exp(mean)
        if quantity.direction < 0:
            return np.concatenate([measured[:, 1:] * np.exp(mean), measured[:, -1:]], axis=1)
        behind = (
            measured[:, :-1] * np.exp(mean)
            if quantity.logarithmic
            else np.clip(measured[:, :-1] + mean, -1.0, 1.0)
        )
        return np.concatenate([measured[:, :1], behind], axis=1)


def _reference(quantity: Quantity, measured: Floats, expected: Expected) -> Floats:
    if quantity.direction == 0:
        return _curve(quantity, measured, expected.mean)
    if quantity.direction < 0:
        return gains.composed_down(measured[:, -1], expected.mean)
    compose = gains.composed if quantity.logarithmic else gains.composed_steps
    return compose(measured[:, 0], expected.mean)
