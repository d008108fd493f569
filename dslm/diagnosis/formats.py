"""A stack's entries in fp16, bf16 and fp8, as it is and deeper."""

from __future__ import annotations

import numpy as np

from dslm.diagnosis.deeper import Ladder
from dslm.diagnosis.precision import FORMATS, NumberFormat, loss_scale, outside
from dslm.diagnosis.report import FormatReport, TopGradient
from dslm.spec import Floats


def format_reports(ladder: Ladder, top: TopGradient) -> tuple[FormatReport, ...]:
    """Return a report for each of `FORMATS`."""
    return tuple(_report(ladder, top.std, held) for held in FORMATS)


def _report(ladder: Ladder, top_std: float, held: NumberFormat) -> FormatReport:
    own = ladder.stacks[0]
    with np.errstate(invalid="ignore"):
        activations, gradients = np.sqrt(own.forward.variance), np.sqrt(own.backward.variance)
    gradients = gradients * top_std

    def margin(relative: Floats) -> Floats:
        std = np.sqrt(relative) * top_std
        return np.minimum(np.log(std / held.smallest_normal), np.log(held.overflow_std / std))

    def span_margin(relative: Floats) -> Floats:
        std = np.sqrt(relative[::-1])  # from the top down, with all above
        span = np.maximum.accumulate(std) / np.minimum.accumulate(std)
        return np.asarray(np.log(held.overflow_std / held.smallest_normal / span)[::-1])

    return FormatReport(
        name=held.name,
        activations=outside(activations, held),
        gradients=outside(gradients, held),
        loss_scale=loss_scale(gradients, held),
        activation_overflow=ladder.forward_crossing(
            "variance", lambda variance: variance > held.overflow_std**2
        ),
        gradient_imprecise=ladder.gradient_crossing(margin),
        gradient_span=ladder.gradient_crossing(span_margin),
    )
