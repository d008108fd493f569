"""The prediction for a whole model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from dslm.bands import backward_spread, forward_spread
from dslm.carried import Run, behind, is_carried, joined, missing_of, runs_of
from dslm.curves import backward_curve, forward_curve, missing_numbers, with_head
from dslm.kernels.block import Layer, SubLayer
from dslm.kernels.coarsen import coarsen_stack
from dslm.kernels.grid import mean_diagonal, prepare, variance
from dslm.kernels.head import HeadPass, head_pass
from dslm.kernels.scores import score_variance
from dslm.kernels.stack import (
    Gradients,
    absolute_scale,
    memory_of,
    stack_backward,
    stack_forward,
    within_floats,
)
from dslm.prediction import Prediction, StackPrediction
from dslm.spec import Attention, Floats, Kernel, ModelSpec, Stack
from dslm.validation import validate


def predict(spec: ModelSpec) -> Prediction:
    r"""Predict the stream's moments over depth, forward and backward, for every stack.

    Each block maps the kernel K of second moments between tokens to that of its output, and the
    gradient's kernel G back:

    .. math:: K^{l+1} = \lambda^2 K^l + \beta^2 \mathcal B_l(K^l), \quad
        G^l = \lambda^2 G^{l+1} + \beta^2 \mathcal B_l^*(G^{l+1})

    with :math:`\mathcal B_l` a branch with its norm (`dslm.kernels`), seeded with the spec's input
    and top-gradient kernels. Encoders and decoders differ only in their masks. A stack that reads
    another one sees that one's predicted output, and sends its gradient back there.

    Args:
        spec: architecture, weight moments and kernels.

    Returns:
        Curves of N + 1 values for every stack. Where a block is None and not carried, the forward
        curve is NaN above it and the backward curve below it. Where the forward pass overflows,
        the forward variance is infinite from there up; where the gradient does, the backward
        variance is infinite from there down. `missing` repeats the spec's and names such places.

    Raises:
        SpecError: if the spec describes no possible model.

    Source: arXiv 2403.09635 for the components; the position-resolved recursion derived here.
    """
    validate(spec)
    missing = list(spec.missing)
    stacks = {name: coarsen_stack(stack) for name, stack in spec.stacks.items()}
    read = {stack.reads for stack in stacks.values()}
    in_runs = {
        name: stack
        for name, stack in stacks.items()
        if is_carried(stack) and stack.reads is None and name not in read
    }
    spec = replace(spec, stacks={name: s for name, s in stacks.items() if name not in in_runs})
    with np.errstate(all="ignore"):  # overflow is reported in `missing`, not as a warning
        layers = model_forward(spec)
        heads = model_heads(spec, layers)
        gradients, scales = model_backward(spec, layers, heads)
        predicted = {
            name: memory_predicted(spec, stack, layers) for name, stack in spec.stacks.items()
        }
        predictions = {
            name: with_head(
                _stack_prediction(spec, name, layers[name], gradients[name], predicted[name]),
                heads[name],
                scales[name],
            )
            for name in spec.stacks
        }
        carried = {name: _in_runs(spec, name, stack) for name, stack in in_runs.items()}
    for name, stack in in_runs.items():
        missing += missing_of(name, stack)
    predictions |= carried
    predictions = {name: predictions[name] for name in stacks}
    for name, stack in spec.stacks.items():
        n_predicted = len(layers[name])
        missing += missing_numbers(
            name, predictions[name], stack, n_predicted, memory_predicted=predicted[name]
        )
    return Prediction(stacks=predictions, missing=tuple(missing))


def _in_runs(spec: ModelSpec, name: str, stack: Stack) -> StackPrediction:
    """Return the prediction of a stack some of whose blocks are carried, run by run.

    A run begins with the stream behind a carried block; its gradient comes from the run above, by
    the gain that was measured.
    """
    x, parts = stack.input_kernel, []
    runs = runs_of(stack)
    for start, stop in runs:
        is_top = stop == len(stack.blocks)
        part = replace(
            stack,
            blocks=stack.blocks[start:stop],
            carried=(),
            input_kernel=x,
            # what block 0's input shares with the head's rows is not known further up
            head=replace(stack.head, tied=0.0) if is_top and stack.head is not None else None,
            top_gradient_kernel=stack.top_gradient_kernel if is_top else None,
        )
        layers = stack_forward(part)
        parts.append((part, layers))
        if is_top or len(layers) < stop - start:
            break
        carried = stack.carried[stop]
        assert carried is not None
        x = behind(layers[-1][-1].y if layers else prepare(x), carried)
    predictions: list[tuple[Run, StackPrediction]] = []
    scales: list[float] = []
    scale, above, reaches_top = 1.0, None, len(parts) == len(runs)
    for (start, stop), (run, layers) in reversed(list(zip(runs, parts, strict=False))):
        part = run if above is None else replace(run, top_gradient_kernel=above)
        head = within_floats(head_pass, part, layers) if stop == len(stack.blocks) else None
        gradients = stack_backward(part, layers, None, None if head is None else head.gradient)
        sub_spec = replace(spec, stacks={name: part})
        prediction = _stack_prediction(sub_spec, name, layers, gradients, True)
        own = absolute_scale(part, layers, None, math.nan, None if head is None else head.gradient)
        predictions.insert(0, ((start, stop), with_head(prediction, head, own)))
        scales.insert(0, scale if reaches_top else math.nan)
        below = gradients.blocks[0][0] if gradients.blocks else gradients.top
        carried = stack.carried[start - 1] if start else None
        gain = 1.0 if carried is None else carried.gradient_gain
        complete = len(gradients.blocks) == len(part.blocks)
        scale *= gain * variance(below) / variance(gradients.top) if complete else math.nan
        above = below
    return joined(predictions, scales, len(stack.blocks))


def memory_predicted(spec: ModelSpec, stack: Stack, layers: Mapping[str, list[Layer]]) -> bool:
    """Return whether the stack that this one reads, if any, is predicted up to its top."""
    if stack.reads is None:
        return True
    return len(layers[stack.reads]) == len(spec.stacks[stack.reads].blocks)


def model_forward(
    spec: ModelSpec, lowest: Mapping[str, Sequence[Layer]] = MappingProxyType({})
) -> dict[str, list[Layer]]:
    """Return each stack's layers; those that read another come after it.

    `lowest` are layers of a stack's first blocks, where they have been computed.
    """
    layers: dict[str, list[Layer]] = {}
    for name, stack in sorted(spec.stacks.items(), key=lambda item: item[1].reads is not None):
        read = (
            None
            if stack.reads is None
            else memory_of(spec.stacks[stack.reads], layers[stack.reads])
        )
        layers[name] = stack_forward(stack, read, lowest.get(name, ()))
    return layers


def model_heads(spec: ModelSpec, layers: Mapping[str, list[Layer]]) -> dict[str, HeadPass | None]:
    """Return the pass through the head of each stack that has one."""
    return {
        name: within_floats(head_pass, stack, layers[name]) for name, stack in spec.stacks.items()
    }


def model_backward(
    spec: ModelSpec, layers: dict[str, list[Layer]], heads: dict[str, HeadPass | None]
) -> tuple[dict[str, Gradients], dict[str, float]]:
    """Return each stack's gradients, and the variance at its top in absolute units.

    Stacks that another one reads come after it.
    """
    gradients: dict[str, Gradients] = {}
    scales: dict[str, float] = {}
    # a gradient that is sent back is relative to its sender's top: its unit goes along
    arriving: dict[str, tuple[Kernel, float]] = {}
    for name, stack in sorted(spec.stacks.items(), key=lambda item: item[1].reads is None):
        head, (memory, unit) = heads[name], arriving.get(name, (None, math.nan))
        sent = None if head is None else head.gradient
        gradient = stack_backward(stack, layers[name], memory, sent)
        gradients[name] = gradient
        scales[name] = absolute_scale(stack, layers[name], memory, unit, sent)
        if stack.reads is not None and gradient.memory is not None:
            arriving[stack.reads] = gradient.memory, scales[name] / variance(gradient.top)
    return gradients, scales


def _stack_prediction(
    spec: ModelSpec, name: str, layers: list[Layer], gradients: Gradients, memory_predicted: bool
) -> StackPrediction:
    stack, batch_size = spec.stacks[name], spec.batch_size
    spread = forward_spread(layers, batch_size)
    back = backward_spread(layers, gradients.blocks, batch_size, spread)
    return StackPrediction(
        forward=forward_curve(stack, layers, spread, memory_predicted=memory_predicted),
        backward=backward_curve(stack, gradients, back),
        score_variance=_over_blocks(stack, [_scores(layer) for layer in layers]),
        attention_variance=_over_blocks(stack, [_branch_variance(x[0]) for x in layers]),
        feed_forward_variance=_over_blocks(stack, [_branch_variance(x[-1]) for x in layers]),
    )


def _scores(layer: Layer) -> float:
    attention = layer[0]
    assert isinstance(attention.layer, Attention)
    return score_variance(attention.inner, attention.inner, attention.layer)


def _branch_variance(sub: SubLayer) -> float:
    residual = sub.placement.residual
    return mean_diagonal(sub.branch) * (1 - residual.p_drop) * residual.beta**2


def _over_blocks(stack: Stack, values: list[float]) -> Floats:
    unknown = len(stack.blocks) - len(values)
    return np.pad(np.array(values, dtype=np.float64), (0, unknown), constant_values=np.nan)
