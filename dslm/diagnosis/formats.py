"""Whether number formats represent a stack's entries, at its depth and deeper."""

from __future__ import annotations

import numpy as np

from dslm.diagnosis.depth_sweep import DepthSweep
from dslm.diagnosis.precision import FORMATS, NumberFormat, loss_scale, outside
from dslm.diagnosis.report import FormatReport, TopGradient
from dslm.spec import Floats


def format_reports(sweep: DepthSweep, top: TopGradient) -> tuple[FormatReport, ...]:
    """Return a report for each of `FORMATS`."""
    return tuple(_report(sweep, top.std, fmt) for fmt in FORMATS)


def _report(sweep: DepthSweep, top_std: float, fmt: NumberFormat) -> FormatReport:
    prediction = sweep.actual
    with np.errstate(invalid="ignore"):
        activations, gradients = (
            np.sqrt(prediction.forward.variance),
            np.sqrt(prediction.backward.variance),
        )
    gradients = gradients * top_std

    def margin(relative: Floats) -> Floats:
        std = np.sqrt(relative) * top_std
        return np.minimum(np.log(std / fmt.smallest_normal), np.log(fmt.overflow_std / std))

    def span_margin(relative: Floats) -> Floats:
        # accumulated from the top down: a layer is in bounds only if all above it are, too
        std = np.sqrt(relative[::-1])
        span = np.maximum.accumulate(std) / np.minimum.accumulate(std)
        return np.asarray(np.log(fmt.overflow_std / fmt.smallest_normal / span)[::-1])

    return FormatReport(
        name=fmt.name,
        activations=outside(activations, fmt),
        gradients=outside(gradients, fmt),
        loss_scale=loss_scale(gradients, fmt),
        activation_overflow=sweep.forward_crossing(
            "variance", lambda variance: variance > fmt.overflow_std**2
        ),
        gradient_imprecise=sweep.gradient_crossing(margin),
        gradient_span=sweep.gradient_crossing(span_margin),
    )
