"""From kernels over depth to curves with bands, and what could not be computed."""

from __future__ import annotations

import numpy as np

from dslm.bands import Spread
from dslm.kernels.block import Layer
from dslm.kernels.grid import correlation, prepare, variance
from dslm.kernels.stack import Gradients
from dslm.prediction import Curve, StackPrediction
from dslm.spec import Floats, Missing, Stack

STANDARD_DEVIATIONS = 2.0  # 95 % of a normal
ROUNDING = 1e-4  # float32 sums over a batch, as measurements are made


def forward_curve(stack: Stack, layers: list[Layer], spread: Spread) -> Curve:
    """Return the stream's curve; NaN past the last layer understood."""
    kernels = [prepare(stack.input_kernel)] + [layer[-1].y for layer in layers]
    values = np.array([variance(kernel) for kernel in kernels])
    correlations = np.array([correlation(kernel) for kernel in kernels])
    n = len(stack.blocks) + 1 - len(kernels)
    return _curve(values, correlations, spread, (0, n))


def backward_curve(stack: Stack, gradients: Gradients, spread: Spread) -> Curve:
    """Return the gradient's curve relative to the top; NaN below the top where nothing is known."""
    kernels = [block[0] for block in gradients.blocks] + [gradients.top]
    values = np.array([variance(kernel) for kernel in kernels])
    correlations = np.array([correlation(kernel) for kernel in kernels])
    n = len(stack.blocks) + 1 - len(kernels)
    return _curve(values / values[-1], correlations, spread, (n, 0))


def _curve(values: Floats, correlations: Floats, spread: Spread, padding: tuple[int, int]) -> Curve:
    factor = np.exp(STANDARD_DEVIATIONS * spread.log_variance + ROUNDING)
    reach = STANDARD_DEVIATIONS * spread.correlation + ROUNDING
    parts = (
        values,
        values / factor,
        values * factor,
        correlations,
        np.maximum(correlations - reach, -1.0),
        np.minimum(correlations + reach, 1.0),
    )
    return Curve(*(np.pad(part, padding, constant_values=np.nan) for part in parts))


def missing_numbers(
    name: str, prediction: StackPrediction, stack: Stack, n_known: int
) -> list[Missing]:
    """Return an entry for each direction whose curve stops being a finite number, and for a
    cross-attention to a stack that could not be predicted; `n_known` blocks were.
    """
    found = []
    if n_known < len(stack.blocks) and stack.blocks[n_known] is not None:
        where = f"{name}.blocks[{n_known}].cross"
        why = f"the output of the stack it reads, {stack.reads}, is not predicted"
        found.append(Missing(where=where, what="cross-attention", why=why))
    forward = prediction.forward.variance
    for index in range(n_known + 1):
        if not np.isfinite(forward[index]):
            found.append(_overflow(name, index, "forward variance", forward[index]))
            break
    backward = prediction.backward.variance
    for index in range(len(backward) - 1, -1, -1):
        if n_known == len(stack.blocks) and not np.isfinite(backward[index]):
            found.append(_overflow(name, index, "backward variance", backward[index]))
            break
    return found


def _overflow(name: str, index: int, quantity: str, value: float) -> Missing:
    where = f"{name}.stream[{index}]"
    why = "the numbers leave what float64 holds, or the weight moments given are not finite"
    return Missing(where=where, what=f"{quantity} of {value}", why=why)
