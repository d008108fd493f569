"""Whether a stack needs DeepScaleLM, and its scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dslm.diagnosis.depth_sweep import CorrelationTrend, coarse
from dslm.diagnosis.report import FormatReport
from dslm.diagnosis.score_scale import ScoreScale
from dslm.errors import SpecError
from dslm.prediction import StackPrediction
from dslm.scaling import Scaling, deepscale_stacks
from dslm.spec import ModelSpec, Stack

UNEVEN_GRADIENT = 10.0  # largest over smallest norm, past which scaling is advised


def reasons_to_scale(
    stack: Stack,
    factor: float | None,
    correlation: CorrelationTrend | None,
    scores: ScoreScale | None,
    formats: tuple[FormatReport, ...],
) -> tuple[str, ...]:
    """Return the faults of a stack that DeepScaleLM repairs.

    They are: a gradient norm that differs more than 10-fold between layers, tokens that become
    one vector within the stack, a saturated softmax, and a stream that overflows fp16.
    """
    n = len(stack.blocks)
    reasons = []
    if factor is not None and factor > UNEVEN_GRADIENT:
        reasons.append(f"the gradient's norm differs {factor:.3g}-fold between layers")
    if correlation is not None and correlation.rank_loss.within(n):
        reasons.append(f"token correlation passes 0.99 at layer {correlation.rank_loss.depth}")
    if scores is not None and scores.meaning == "saturated":
        reasons.append(f"the softmax of layer {scores.layer} is saturated")
    if formats and formats[0].activation_overflow.within(n):
        reasons.append(f"the stream overflows fp16 at layer {formats[0].activation_overflow.depth}")
    return tuple(reasons)


def scalings(spec: ModelSpec) -> tuple[Mapping[str, Scaling], str]:
    """Return DeepScaleLM's scales of every stack, or none and the reason for that."""
    # means over tokens hardly depend on the cells: scales are within 0.2 %, with ALiBi 0.6 %
    stacks = {name: coarse(stack) for name, stack in spec.stacks.items()}
    try:
        with np.errstate(all="ignore"):  # weights that overflow are measured, not used
            return deepscale_stacks(replace(spec, stacks=stacks)), ""
    except SpecError as error:
        return {}, str(error)


def gradient_factor(prediction: StackPrediction) -> float | None:
    """Return largest over smallest standard deviation of the gradient, layers 1 to N."""
    std = np.sqrt(prediction.backward.variance[1:])
    if len(std) == 0 or not np.isfinite(std).all():
        return None
    return float(std.max() / std.min()) if std.min() > 0 else float("inf")
