r"""What a block's gain is expected to be, from the samples before.

The gain of a block drifts as its weights learn, and scatters with the batches. Its slow mean
:math:`m` follows it sample by sample, from the error of its own prediction:

.. math:: e_t = y_t - m_t, \qquad m_{t+1} = m_t + \alpha\,\mathrm{clip}(e_t, \pm c\,s_t), \qquad
    s_{t+1} = s_t + \gamma\,(|\mathrm{clip}(e_t, \pm c\,s_t)| - s_t)

That is the steady state of a Kalman filter for a level that walks at random, made robust: a sample
far outside moves the mean by no more than :math:`\alpha c` of the usual error, one that lasts
widens :math:`s` until it is the new level. :math:`s` measures errors of prediction, so it holds
both scatter and drift, and the band :math:`m \pm k s` widens by itself where the gain moves fast.

Every expectation starts `WINDOW` samples before its step: the same samples give the same numbers,
whoever asks and whatever was computed before.

Source: Masreliez and Martin's robust filter (1977) with its gain held constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

WINDOW = 48  # samples that an expectation reads
RATE = 0.4  # alpha: the mean follows the last few samples, since gains drift while weights learn
SCALE_RATE = 0.1  # gamma: the usual error is a mean over ten samples or so
CLIP = 4.0  # c, in usual errors
WIDTH = 6.0  # k, in usual errors; a Gaussian's mean absolute error is 0.8 standard deviations
PRIOR = 2.0  # samples that theory's gain counts for
FIRST_USUAL = 0.05  # the usual error before any is seen


@dataclass(frozen=True, slots=True)
class Expected:
    """What was expected of each block, and the band around it; each float64 (rows, n).

    NaN where nothing is: no theory, and no sample before.

    Attributes:
        mean: the slow mean.
        reach: half the width of the band.
        samples: how many finite samples each mean was made of, theory's not counted.
    """

    mean: Floats
    reach: Floats
    samples: Floats


def expect(
    samples: Floats,
    rows: Indices,
    *,
    floor: float,
    prior: Floats | None = None,
) -> Expected:
    """What the samples before each row let one expect of it.

    Args:
        samples: (steps, n), ascending by step; what is not finite is passed over.
        rows: the rows asked for, each from 0 to steps - 1; a row itself is never read.
        floor: the least usual error.
        prior: theory's values (n,), believed at the start of a run: where fewer than `WINDOW`
            rows lie before.
    """
    mean, usual, counted = _start(len(rows), samples.shape[1], rows, floor, prior)
    for age in range(WINDOW, 0, -1):
        at = rows - age
        values = np.where((at >= 0)[:, None], samples[np.maximum(at, 0)], np.nan)
        mean, usual, counted = _follow(mean, usual, counted, values, floor)
    return Expected(mean, np.where(np.isnan(mean), np.nan, WIDTH * usual), counted)


def _start(
    n_rows: int, n: int, rows: Indices, floor: float, prior: Floats | None
) -> tuple[Floats, Floats, Floats]:
    """Mean, usual error and number of samples before the first sample of each row's window."""
    mean = np.full((n_rows, n), np.nan)
    if prior is not None:
        mean[rows < WINDOW] = prior
    usual = np.full((n_rows, n), max(floor, FIRST_USUAL))
    return mean, usual, np.zeros((n_rows, n))


def _follow(
    mean: Floats, usual: Floats, counted: Floats, values: Floats, floor: float
) -> tuple[Floats, Floats, Floats]:
    """The state after one more sample of every row; a sample that is not finite changes nothing."""
    finite = np.isfinite(values)
    first = finite & np.isnan(mean)
    error = np.clip(values - mean, -CLIP * usual, CLIP * usual)
    rate = np.maximum(RATE, 1 / (counted + 1 + PRIOR))
    moved = np.where(first, values, mean + rate * error)
    scale_rate = SCALE_RATE
    widened = np.maximum(usual + scale_rate * (np.abs(error) - usual), floor)
    return (
        np.where(finite, moved, mean),
        np.where(finite & ~first, widened, usual),
        counted + finite,
    )
