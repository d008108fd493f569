"""The prediction for a whole model."""

from __future__ import annotations

import numpy as np

from dslm.bands import backward_spread, forward_spread
from dslm.curves import backward_curve, forward_curve, missing_numbers
from dslm.kernels.block import SubLayer
from dslm.kernels.grid import mean_diagonal
from dslm.kernels.scores import score_variance
from dslm.kernels.stack import Layer, stack_backward, stack_forward
from dslm.prediction import Prediction, StackPrediction
from dslm.spec import Attention, Floats, ModelSpec, Stack
from dslm.validation import validate


def predict(spec: ModelSpec) -> Prediction:
    r"""Predict the stream's moments over depth, forward and backward, for every stack.

    The kernel recursion of `dslm.kernels`, seeded with the spec's input and top-gradient kernels.
    Encoder and decoder stacks are treated alike: a stack is its blocks, causal or not.

    Args:
        spec: architecture, weight moments and kernels.

    Returns:
        Curves of N + 1 values a stack. Past a block that is None the forward curve is NaN, and
        below it the backward curve; `missing` repeats the spec's and names where a number
        overflowed.

    Raises:
        SpecError: if the spec describes no possible model.

    Source: arXiv 2403.09635 for the components; the position-resolved recursion derived here.
    """
    validate(spec)
    stacks: dict[str, StackPrediction] = {}
    missing = list(spec.missing)
    with np.errstate(all="ignore"):  # overflow is reported in `missing`, not as a warning
        for name, stack in spec.stacks.items():
            stacks[name] = _predict_stack(stack, spec.batch_size)
            missing += missing_numbers(name, stacks[name], stack)
    return Prediction(stacks=stacks, missing=tuple(missing))


def _predict_stack(stack: Stack, batch_size: int) -> StackPrediction:
    layers = stack_forward(stack)
    gradients = stack_backward(stack, layers)
    known = layers if gradients else []
    return StackPrediction(
        forward=forward_curve(stack, layers, forward_spread(layers, batch_size)),
        backward=backward_curve(stack, gradients, backward_spread(known, gradients, batch_size)),
        score_variance=_over_blocks(stack, [_scores(layer) for layer in layers]),
        attention_variance=_over_blocks(stack, [_branch_variance(x[0]) for x in layers]),
        feed_forward_variance=_over_blocks(stack, [_branch_variance(x[1]) for x in layers]),
    )


def _scores(layer: Layer) -> float:
    attention = layer[0]
    assert isinstance(attention.layer, Attention)
    return score_variance(attention.inner, attention.layer)


def _branch_variance(sub: SubLayer) -> float:
    return mean_diagonal(sub.branch) * (1 - sub.place.residual.p_drop)


def _over_blocks(stack: Stack, values: list[float]) -> Floats:
    unknown = len(stack.blocks) - len(values)
    return np.pad(np.array(values, dtype=np.float64), (0, unknown), constant_values=np.nan)
