"""Whether a stack needs DeepScaleLM, and its scales."""

from __future__ import annotations

import numpy as np

from dslm.diagnosis.depth_sweep import CorrelationTrend
from dslm.diagnosis.report import Advice, FormatReport
from dslm.diagnosis.score_scale import ScoreScale
from dslm.errors import SpecError
from dslm.prediction import StackPrediction
from dslm.scaling import deepscale
from dslm.spec import Stack

UNEVEN_GRADIENT = 10.0  # largest over smallest norm, past which scaling is advised


def advise(
    stack: Stack,
    factor: float | None,
    correlation: CorrelationTrend | None,
    scores: ScoreScale | None,
    formats: tuple[FormatReport, ...],
) -> Advice:
    """Return DeepScaleLM's scales, with the reasons for them.

    Reasons are: a gradient norm that differs more than 10-fold between layers, tokens that become
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
    # scales are given even where they are not needed, unless a block has no theory
    try:
        with np.errstate(all="ignore"):  # weights that overflow are measured, not used
            return Advice(tuple(reasons), deepscale(stack))
    except SpecError as error:
        return Advice(tuple(reasons), None, str(error))


def gradient_factor(prediction: StackPrediction) -> float | None:
    """Return largest over smallest standard deviation of the gradient, layers 1 to N."""
    std = np.sqrt(prediction.backward.variance[1:])
    if len(std) == 0 or not np.isfinite(std).all():
        return None
    return float(std.max() / std.min()) if std.min() > 0 else float("inf")
