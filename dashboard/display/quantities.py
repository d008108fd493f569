"""The quantities drawn over depth: where their values come from and how their axis reads."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.api_types import Moment, Site


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity over depth.

    Attributes:
        name: its key in the pages' data.
        title: the chart's heading.
        symbol: the axis title.
        site: where it is measured and predicted.
        moment: which moment of the values there.
        log: whether its axis is logarithmic.
        relative: whether it is drawn relative to the value at the top layer.
        note: the small print beside the heading.
    """

    name: str
    title: str
    symbol: str
    site: Site
    moment: Moment
    log: bool
    relative: bool = False
    note: str = ""

    @property
    def series(self) -> str:
        """The measured series, ``site/quantity`` under the stack."""
        return f"{self.site}/{self.moment}"


VARIANCE = Quantity(
    name="variance",
    title="Forward variance",
    symbol="σ²<sub>x</sub>",
    site="stream",
    moment="variance",
    log=True,
    note="of the residual stream",
)
CORRELATION = Quantity(
    name="correlation",
    title="Token correlation",
    symbol="r<sup>l</sup><sub>x</sub>",
    site="stream",
    moment="correlation",
    log=False,  # it is bounded by 1, and may be negative
    note="between tokens; 1 = collapsed",
)
GRADIENT = Quantity(
    name="gradient",
    title="Gradient variance",
    symbol="σ²<sub>g</sub> / top",
    site="stream_gradient",
    moment="variance",
    log=True,
    relative=True,  # the theory leaves the scale of the loss's gradient open
    note="relative to the top layer",
)
QUANTITIES = (VARIANCE, CORRELATION, GRADIENT)
