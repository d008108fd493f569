"""The panels and lines of a plot, for either of the libraries that draw it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import dslm
from dslm.spec import Floats
from evenkeel.prediction.cases import Case


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes.

    Attributes:
        title, label: above the axes, and on the vertical one.
        log: whether the vertical axis is logarithmic.
        quantity: name of the curve of `Line` that it shows.
    """

    title: str
    label: str
    log: bool
    quantity: str


@dataclass(frozen=True, slots=True)
class Line:
    """One stack of one case, over layers 0 to N."""

    name: str
    variance: Floats
    correlation: Floats
    gradient: Floats


PANELS = (
    Panel("Forward variance", "σ²ₓ", True, "variance"),
    Panel("Token correlation", "rₓ", False, "correlation"),
    Panel("Gradient variance, last layer = 1", "σ²(g), relative", True, "gradient"),
)
# dark enough for white paper, and distinguishable without colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
RANK_LOSS = 0.99


def log_limits(lines: list[Line], quantity: str) -> tuple[float, float] | None:
    """Return limits of a logarithmic axis at least a decade apart; None to leave them open.

    Without, a curve that hardly changes would fill the axis with its rounding errors.
    """
    values = np.concatenate([getattr(line, quantity) for line in lines])
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive) == 0 or positive.max() > 10 * positive.min():
        return None
    middle = float(np.sqrt(positive.min() * positive.max()))
    return middle / 10**0.55, middle * 10**0.55


def lines_of(diagnosed: list[tuple[Case, dslm.Diagnosis]]) -> Iterator[Line]:
    """Yield a line for every stack of every case."""
    for case, diagnosis in diagnosed:
        for name, curves in diagnosis.prediction.stacks.items():
            several = len(diagnosis.stacks) > 1
            yield Line(
                f"{case.name}, {name}" if several else case.name,
                curves.forward.variance,
                curves.forward.correlation,
                curves.backward.variance,
            )
