"""From kernels over depth to curves with bands, and the places that could not be computed."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np

from dslm.bands import Spread
from dslm.kernels.block import Layer
from dslm.kernels.grid import correlation, prepare, variance
from dslm.kernels.head import HeadPass
from dslm.kernels.stack import Gradients
from dslm.prediction import Curve, StackPrediction
from dslm.spec import Block, Floats, Kernel, Missing, Stack

STANDARD_DEVIATIONS = 2.0  # half the width of a band: 95 % of a normal lie within
OVERFLOW = "the numbers leave what float64 holds, or those given are not finite"
ROUNDING = 1e-4  # of float32 sums over a batch, which is how measurements are made


def forward_curve(
    stack: Stack, layers: list[Layer], spread: Spread, *, memory_predicted: bool
) -> Curve:
    """Return the stream's curve, with bands from `spread`."""
    moments = forward_moments(stack, layers, memory_predicted=memory_predicted)
    return _curve(*moments, spread, (0, len(stack.blocks) - len(layers)))


def forward_moments(
    stack: Stack, layers: list[Layer], *, memory_predicted: bool
) -> tuple[Floats, Floats]:
    """Return (variance, correlation) of the stream; above the last layer computed they are NaN, or
    the variance infinite where that layer overflowed.
    """
    kernels = [prepare(stack.input_kernel)] + [layer[-1].y for layer in layers]
    values, correlations = _moments(kernels)
    block = stopped_at(stack, len(layers), memory_predicted=memory_predicted)
    overflows = block is not None and not np.isnan(values[-1]) and not _holds_nan(block)
    padding = (0, len(stack.blocks) - len(layers))
    return _padded(values, padding, np.inf if overflows else np.nan), _padded(correlations, padding)


def backward_curve(stack: Stack, gradients: Gradients, spread: Spread) -> Curve:
    """Return the gradient's curve relative to the top, with bands from `spread`."""
    moments = backward_moments(stack, gradients)
    return _curve(*moments, spread, (len(stack.blocks) - len(gradients.blocks), 0))


def backward_moments(stack: Stack, gradients: Gradients) -> tuple[Floats, Floats]:
    """Return (variance, correlation) of the gradient, the variance relative to the top; below the
    lowest layer computed they are NaN, or the variance infinite where that layer overflowed.
    """
    kernels = [block[0] for block in gradients.blocks] + [gradients.top]
    values, correlations = _moments(kernels)
    overflows = gradients.overflowed and not np.isnan(values).any()
    padding = (len(stack.blocks) - len(gradients.blocks), 0)
    relative = _padded(values / values[-1], padding, np.inf if overflows else np.nan)
    return relative, _padded(correlations, padding)


def _moments(kernels: list[Kernel]) -> tuple[Floats, Floats]:
    values = np.array([variance(kernel) for kernel in kernels])
    return values, np.array([correlation(kernel) for kernel in kernels])


def _padded(values: Floats, padding: tuple[int, int], fill: float = np.nan) -> Floats:
    return np.pad(values, padding, constant_values=fill)


def stopped_at(stack: Stack, n_predicted: int, *, memory_predicted: bool) -> Block | None:
    """Return the block whose output is not finite; None where its absence explains the gap.

    `n_predicted` blocks have a finite output. A block that is not understood, or whose memory is
    not predicted, has no output in the first place.
    """
    block = stack.blocks[n_predicted] if n_predicted < len(stack.blocks) else None
    return block if block is None or block.cross is None or memory_predicted else None


def _holds_nan(part: object) -> bool:
    if is_dataclass(part) and not isinstance(part, type):
        return any(_holds_nan(getattr(part, field.name)) for field in fields(part))
    return isinstance(part, float) and np.isnan(part)


def typical_over_mean(log_sd: Floats) -> Floats:
    r"""Return the median of a log-normal variable over its mean, :math:`e^{-\sigma^2/2}`.

    Each layer multiplies a draw's variance by a random factor, so its logarithm is normal, and the
    mean over draws, which the recursion predicts, lies above most of them. The ratio is bounded
    such that the mean stays within the band.

    Source: moments of a log-normal; `tests/dslm` compares with the logarithms of simulated draws.
    """
    return np.asarray(np.exp(-np.minimum(log_sd**2 / 2, STANDARD_DEVIATIONS * log_sd)))


def _curve(values: Floats, correlations: Floats, spread: Spread, padding: tuple[int, int]) -> Curve:
    log_sd = _padded(spread.log_variance, padding, 0.0)
    factor = np.exp(STANDARD_DEVIATIONS * log_sd + ROUNDING)
    typical = values * typical_over_mean(log_sd)
    reach = STANDARD_DEVIATIONS * _padded(spread.correlation, padding, 0.0) + ROUNDING
    return Curve(
        values,
        typical / factor,
        typical * factor,
        correlations,
        np.maximum(correlations - reach, -1.0),
        np.minimum(correlations + reach, 1.0),
    )


def with_head(prediction: StackPrediction, head: HeadPass | None, scale: float) -> StackPrediction:
    """Return `prediction` with the moments that the head and the loss add to it."""
    if head is None:
        return replace(prediction, gradient_scale=scale)
    variance, loss = head.logit_variance, head.loss
    return replace(prediction, gradient_scale=scale, logit_variance=variance, loss=loss)


def missing_numbers(
    name: str,
    prediction: StackPrediction,
    stack: Stack,
    n_predicted: int,
    *,
    memory_predicted: bool,
) -> list[Missing]:
    """Return an entry for each direction whose curve stops being finite, or the one entry of a
    cross-attention whose memory is not predicted; `n_predicted` blocks have a finite output.
    """
    forward, backward = prediction.forward.variance, prediction.backward.variance
    # the spec itself names a block that is not understood; entries here are for the others
    block = stopped_at(stack, n_predicted, memory_predicted=memory_predicted)
    if block is None and n_predicted < len(stack.blocks) and stack.blocks[n_predicted] is not None:
        where = f"{name}.blocks[{n_predicted}].cross"
        why = f"the output of the stack it reads, {stack.reads}, is not predicted"
        return [Missing(where=where, what="cross-attention", why=why)]
    understood = n_predicted + 1 + (block is not None)
    missing = []
    for index in np.flatnonzero(~np.isfinite(forward[:understood]))[:1]:
        missing.append(_overflow(name, int(index), "forward variance", forward[index]))
    if None not in stack.blocks:
        for index in np.flatnonzero(~np.isfinite(backward))[-1:]:
            gap = "it needs the whole forward pass, which is not finite" if block else OVERFLOW
            missing.append(_overflow(name, int(index), "backward variance", backward[index], gap))
    return missing


def _overflow(name: str, index: int, quantity: str, value: float, why: str = OVERFLOW) -> Missing:
    return Missing(where=f"{name}.stream[{index}]", what=f"{quantity} of {value}", why=why)
