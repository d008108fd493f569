"""A stack's entries in fp16, bf16 and fp8, as it is and deeper."""

from __future__ import annotations

import numpy as np

from dslm.diagnosis.depth_sweep import DepthSweep
from dslm.diagnosis.precision import FORMATS, NumberFormat, loss_scale, outside
from dslm.diagnosis.report import FormatReport, TopGradient
from dslm.spec import Floats


def format_reports(sweep: DepthSweep, top: TopGradient) -> tuple[FormatReport, ...]:
    """Return a report for each of `FORMATS`."""
    return tuple(_report(sweep, top.std, number_format) for number_format in FORMATS)


def _report(sweep: DepthSweep, top_std: float, number_format: NumberFormat) -> FormatReport:
    prediction = sweep.stacks[0]
    with np.errstate(invalid="ignore"):
        activations, gradients = (
            np.sqrt(prediction.forward.variance),
            np.sqrt(prediction.backward.variance),
        )
    gradients = gradients * top_std

    def margin(relative: Floats) -> Floats:
        std = np.sqrt(relative) * top_std
        return np.minimum(
            np.log(std / number_format.smallest_normal), np.log(number_format.overflow_std / std)
        )

    def span_margin(relative: Floats) -> Floats:
        std = np.sqrt(relative[::-1])  # from the top down, with all above
        span = np.maximum.accumulate(std) / np.minimum.accumulate(std)
        return np.asarray(
            np.log(number_format.overflow_std / number_format.smallest_normal / span)[::-1]
        )

    return FormatReport(
        name=number_format.name,
        activations=outside(activations, number_format),
        gradients=outside(gradients, number_format),
        loss_scale=loss_scale(gradients, number_format),
        activation_overflow=sweep.forward_crossing(
            "variance", lambda variance: variance > number_format.overflow_std**2
        ),
        gradient_imprecise=sweep.gradient_crossing(margin),
        gradient_span=sweep.gradient_crossing(span_margin),
    )
