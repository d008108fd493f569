"""A diagnosis in English sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dslm.diagnosis.depth_sweep import CorrelationTrend, Crossing
from dslm.diagnosis.growth import Growth, GrowthBelowTop
from dslm.diagnosis.report import Advice, FormatReport
from dslm.diagnosis.score_scale import ScoreScale
from dslm.prediction import StackPrediction
from dslm.scaling import Scaling
from dslm.spec import Floats

PLACED = {
    "pre": "Pre-LN",
    "post": "Post-LN",
    "sandwich": "Sandwich-LN",
    "branch": "Branch-LN",
    "parallel": "Parallel Pre-LN",
    "mixed": "Norms of several placements",
    "unknown": "Norms of unknown placement",
}
STEEP = 20.0  # a rate per layer, from which on 1 + bl is bl within 5 % at layer 1


def gradient_sentence(
    placed: str, prediction: StackPrediction, law: Growth | None, below: GrowthBelowTop | None
) -> str:
    """Say how the gradient's norm changes on its way down through the stack."""
    curve = prediction.backward.variance
    if not np.isfinite(curve).all():
        return f"{PLACED[placed]}: the gradient is not predicted at every layer."
    bottom = min(1, len(curve) - 1)
    times = math.sqrt(curve[bottom])
    at_bottom = f"at layer {bottom} it is {times:.3g} times that of layer {len(curve) - 1}"
    change = _gradient_law(law) if below is None else _in_two_parts(curve, below)
    return f"{PLACED[placed]}: the gradient's norm {change}; {at_bottom}."


def _in_two_parts(curve: Floats, below: GrowthBelowTop) -> str:
    ratio = math.sqrt(curve[-1] / curve[-1 - below.top_layers])
    times = f"falls {ratio:.3g}-fold" if ratio > 1 else f"grows {1 / ratio:.3g}-fold"
    layers = f"{below.top_layers} layers" if below.top_layers > 1 else "layer"
    return f"{times} through the top {layers}, and below {_gradient_law(below.growth)}"


def _gradient_law(law: Growth | None) -> str:
    if law is None or not law.fits:
        return _no_law(law)
    if law.law == "exponential":
        verb = "shrinks" if law.rate > 0 else "grows"
        factor = math.exp(abs(law.rate) / 2)
        return f"{verb} by a factor of {factor:.3f} per layer on its way down (exponential)"
    if law.law == "hyperbolic":
        return f"grows toward the input as 1/√({_one_plus(law)}) at layer l (hyperbolic)"
    if law.law == "linear":
        return f"shrinks toward the input as √({_one_plus(law)}) at layer l (linear variance)"
    return "is the same at every layer (constant)"


def _one_plus(law: Growth) -> str:
    return "l" if law.rate > STEEP else f"1 + {law.rate:.2g}·l"


def _no_law(law: Growth | None) -> str:
    if law is None:
        return "follows no law that so few layers would show"
    return (
        f"follows no law of the four within 10 % (nearest: {law.law}; {100 * law.error:.0f} % off)"
    )


def variance_sentence(prediction: StackPrediction, law: Growth | None) -> str:
    """Say how the stream's variance changes with depth."""
    curve = prediction.forward.variance
    finite = np.flatnonzero(np.isfinite(curve))
    if len(finite) == 0 or finite[-1] == 0:
        return "The stream's variance is not predicted."
    return f"The stream's variance {_variance_law(law)}, {_span(curve, int(finite[-1]))}."


def _span(curve: Floats, last: int) -> str:
    text = f"{curve[1]:.3g} at layer 1, {curve[last]:.3g} at layer {last}"
    return text if last == len(curve) - 1 else f"{text}, not predicted above"


def _variance_law(law: Growth | None) -> str:
    if law is None or not law.fits:
        return _no_law(law)
    if law.law == "exponential":
        return f"changes by a factor of {law.factor:.4g} per layer (exponential)"
    return {
        "constant": "is the same at every layer (constant)",
        "linear": "grows linearly with depth",
        "hyperbolic": f"falls as 1/({_one_plus(law)}) at layer l (hyperbolic)",
    }[law.law]


def correlation_sentence(trend: CorrelationTrend | None, n_layers: int) -> str:
    """Say whether tokens become one vector, and where."""
    if trend is None:
        return "Token correlation is not predicted."
    if trend.rank_loss.within(n_layers):
        return (
            f"Token correlation passes 0.99 at layer {trend.rank_loss.depth} of {n_layers}: "
            "from there on all tokens are one vector."
        )
    if trend.rank_loss.depth is not None:
        return (
            f"Token correlation stays below 0.99 in these {n_layers} layers; "
            f"repeated deeper, it would pass it at layer {trend.rank_loss.depth}."
        )
    where = f"settles at {trend.limit:.3f}" if trend.settled else f"is {trend.limit:.3f}"
    return (
        f"Token correlation {where} after {trend.rank_loss.searched} layers "
        f"and does not pass 0.99{'' if trend.settled else ', though it still moves'}."
    )


def scores_sentence(scores: ScoreScale | None) -> str:
    """Say what the largest attention scores mean."""
    if scores is None:
        return "Attention scores are not predicted."
    return (
        f"Attention scores reach a standard deviation of {scores.std:.3g} (layer {scores.layer}): "
        f"{scores.meaning}, about {scores.effective_keys:.3g} of {scores.keys:.4g} keys share "
        "the weight."
    )


def precision_sentence(formats: tuple[FormatReport, ...], n_layers: int) -> str:
    """Say which layers fp16 and bf16 cannot represent."""
    if not formats:
        return "Number formats are not judged: a curve is not predicted at every layer."
    parts = [part for report in formats[:2] for part in _leaving(report, n_layers)]
    if not parts:
        return "fp16 and bf16 hold its activations and gradients as they are."
    return f"Number formats: {'; '.join(parts)}."


def _leaving(report: FormatReport, n_layers: int) -> Iterator[str]:
    if report.activation_overflow.within(n_layers):
        yield f"activations overflow {report.name} at layer {report.activation_overflow.depth}"
    if report.gradient_span.within(n_layers):
        depth = report.gradient_span.depth
        yield f"no single loss scale holds the gradients of {depth} layers in {report.name}"
    elif report.loss_scale is not None and report.loss_scale > 1:
        yield f"gradients need a loss scale of {report.loss_scale:.4g} in {report.name}"


def advice_sentence(advice: Advice, *, judged: bool) -> str:
    """Say which scaling is recommended, or that none is needed.

    `judged` is False where a curve is not predicted everywhere, so that no reason is no finding.
    """
    if not advice.needed and not judged:
        return "Whether it needs rescaling is not judged."
    if not advice.needed:
        return "No rescaling is needed at this depth."
    why = "; ".join(advice.reasons)
    if advice.scaling is None:
        return f"It needs rescaling ({why}), but DeepScaleLM cannot be given: {advice.refusal}."
    scaling = advice.scaling
    return (
        f"Recommended: DeepScaleLM with lambda {scaling.lam:.4f}, beta {scaling.beta:.4f} "
        f"(lambda² {scaling.lam**2:.4f}, beta² {scaling.beta**2:.4f}), because {why}."
    )


def scaling_line(scaling: Scaling) -> str:
    """Return the standard deviations of a scaling in one line, as ranges over layers."""
    names = ("query", "key", "value", "output", "up", "gate", "down")
    spans = []
    for name in names:
        stds = [value for block in scaling.blocks if (value := getattr(block, name)) is not None]
        if stds:
            low, high = f"{min(stds):.4g}", f"{max(stds):.4g}"
            spans.append(f"{name} {low if low == high else f'{low} to {high}'}")
    return f"embedding {scaling.embedding:.4g}, " + ", ".join(spans)


def crossing_words(crossing: Crossing, n_layers: int) -> str:
    """Return a crossing in a few characters: a layer, ``> 96``, or in brackets a depth that the
    stack does not reach.
    """
    if crossing.depth is None:
        return f"> {crossing.searched}"
    return f"{crossing.depth}" if crossing.within(n_layers) else f"({crossing.depth})"
