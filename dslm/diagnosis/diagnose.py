"""A whole model's diagnosis."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from dslm.diagnosis import sentences as say
from dslm.diagnosis.advice import gradient_factor, reasons_to_scale, scalings
from dslm.diagnosis.depth_sweep import DepthSweep, correlation_trend, sweep_depths
from dslm.diagnosis.formats import format_reports
from dslm.diagnosis.growth import fit_below_top, fit_growth
from dslm.diagnosis.report import Advice, Diagnosis, StackDiagnosis, StackPlacement, TopGradient
from dslm.diagnosis.score_scale import largest_scores
from dslm.errors import SpecError
from dslm.model import predict
from dslm.prediction import Prediction, StackPrediction
from dslm.scaling import Scaling
from dslm.spec import ModelSpec, Stack


def diagnose(
    spec: ModelSpec,
    *,
    prediction: Prediction | None = None,
    top_gradient_std: float | Mapping[str, float] | None = None,
    search_depth: int | None = None,
) -> Diagnosis:
    """Say what the theory's curves mean for a model.

    For every stack: the laws that the stream's variance and its gradient follow over depth, the
    depth at which token correlation passes 0.99, the layers that fp16, bf16 and fp8 cannot
    represent, the largest attention scores, and DeepScaleLM's scales with the reasons for them,
    if any. Depths beyond the model's come from predictions with its blocks repeated: up to four
    times, or to 96 layers if that is more.

    Args:
        spec: the model, from `trainer_agent.describe` or built by hand.
        prediction: the result of `predict(spec)`, to save computing it again.
        top_gradient_std: standard deviation of an entry of dLoss/d(last block's output), of
            every stack or by the stack's name. Without it, it is predicted from the spec's head
            and loss; without those, the loss is taken as a mean over the batch's tokens, with a
            gradient of norm 1/tokens at each token's vector.
        search_depth: blocks of the deepest stack predicted, by default as above.

    Raises:
        SpecError: if the spec describes no possible model, or `top_gradient_std` is not positive.
    """
    top_stds = _by_stack(spec, top_gradient_std)
    prediction = predict(spec) if prediction is None else prediction
    sweeps = sweep_depths(spec, prediction.stacks, search_depth)
    scaled, refusal = scalings(spec)
    stacks = {}
    for name, stack in spec.stacks.items():
        scale = prediction.stacks[name].gradient_scale
        top = _top_gradient(stack, spec.batch_size, top_stds.get(name), scale)
        stacks[name] = _stack(stack, sweeps[name], top, (scaled.get(name), refusal))
    return Diagnosis(stacks, prediction)


def _stack(
    stack: Stack, sweep: DepthSweep, top: TopGradient, scaled: tuple[Scaling | None, str]
) -> StackDiagnosis:
    prediction, n, placed = sweep.actual, len(stack.blocks), placement(stack)
    variance = fit_growth(prediction.forward.variance)
    gradient = fit_growth(prediction.backward.variance)
    fits = gradient is None or gradient.fits
    below = None if fits else fit_below_top(prediction.backward.variance)
    trend, scores = correlation_trend(sweep), largest_scores(stack, prediction.score_variance)
    factor = gradient_factor(prediction)
    formats = format_reports(sweep, top) if _predicted_everywhere(prediction) else ()
    advice = Advice(reasons_to_scale(stack, factor, trend, scores, formats), *scaled)
    sentences = (
        say.gradient_sentence(placed, prediction, gradient, below),
        say.variance_sentence(prediction, variance),
        say.correlation_sentence(trend, n),
        say.scores_sentence(scores),
        say.precision_sentence(formats, n),
        say.advice_sentence(advice, judged=bool(formats)),
    )
    return StackDiagnosis(
        placement=placed,
        n_layers=n,
        d_model=stack.d_model,
        seq_len=int(stack.input_kernel.cell_sizes.sum()),
        sentences=sentences,
        variance=variance,
        gradient=gradient,
        gradient_below=below,
        gradient_factor=factor,
        correlation=trend,
        scores=scores,
        top_gradient=top,
        formats=formats,
        advice=advice,
    )


def _predicted_everywhere(prediction: StackPrediction) -> bool:
    """Whether both directions have a prediction, finite or infinite, at every layer."""
    return not np.isnan([*prediction.forward.variance, *prediction.backward.variance]).any()


def placement(stack: Stack) -> StackPlacement:
    """Return where the norms of a stack's blocks stand."""
    placements = {block.placement for block in stack.blocks if block is not None}
    if not placements:
        return "unknown"
    return placements.pop() if len(placements) == 1 else "mixed"


def _by_stack(spec: ModelSpec, std: float | Mapping[str, float] | None) -> Mapping[str, float]:
    if std is None:
        return {}
    stds = std if isinstance(std, Mapping) else dict.fromkeys(spec.stacks, std)
    if not all(0 < value < math.inf for value in stds.values()):
        raise SpecError("top_gradient_std", "give a positive standard deviation")
    return stds


def _top_gradient(
    stack: Stack, batch_size: int, std: float | None, predicted_var: float
) -> TopGradient:
    if std is not None:
        return TopGradient(std, "given")
    if 0 < predicted_var < math.inf:  # NaN without a head
        return TopGradient(math.sqrt(predicted_var), "predicted")
    tokens = batch_size * int(stack.input_kernel.cell_sizes.sum())
    return TopGradient(1 / (tokens * math.sqrt(stack.d_model)), "assumed")
