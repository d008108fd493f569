"""The quantities drawn over depth: where their values come from and how their axis reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity over depth.

    Attributes:
        name: its key in the dashboard's own data.
        title: the chart's heading.
        symbol: the axis title.
        series: the measured series, ``site/quantity`` under the stack.
        curve: the site of the prediction's curve, and the prefix of its fields.
        log: whether its axis is logarithmic.
        relative: whether it is drawn relative to the value at the top layer.
        note: what the heading's small print says.
    """

    name: str
    title: str
    symbol: str
    series: str
    curve: tuple[str, str]
    log: bool
    relative: bool = False
    note: str = ""


VARIANCE = Quantity(
    name="variance",
    title="Forward variance",
    symbol="σ²<sub>x</sub>",
    series="stream/variance",
    curve=("stream", "variance"),
    log=True,
    note="of the residual stream",
)
CORRELATION = Quantity(
    name="correlation",
    title="Token correlation",
    symbol="r<sup>l</sup><sub>x</sub>",
    series="stream/correlation",
    curve=("stream", "correlation"),
    log=False,
    note="between tokens; 1 = collapsed",
)
GRADIENT = Quantity(
    name="gradient",
    title="Gradient variance",
    symbol="σ²<sub>g</sub> / top",
    series="stream_gradient/variance",
    curve=("stream_gradient", "variance"),
    log=True,
    relative=True,
    note="relative to the top layer",
)
QUANTITIES = (VARIANCE, CORRELATION, GRADIENT)
