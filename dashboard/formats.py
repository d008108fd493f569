"""Numbers, times and places as the pages write them."""

from __future__ import annotations

import math
import time

from dashboard.api_types import Alert
from dashboard.vectors import number

MINUTE, HOUR, DAY = 60, 3600, 86_400
STATUS_WORDS = {
    "running": "running",
    "finished": "finished",
    "failed": "failed",
    "diverged": "diverged",
    "lost_contact": "lost contact",
}


def ago(then: float | None, *, now: float | None = None) -> str:
    """How long ago, in the largest fitting unit."""
    if not then:
        return "never"
    passed = max(0.0, (time.time() if now is None else now) - then)
    if passed < MINUTE:
        return f"{passed:.0f} s ago"
    for unit, size, limit in (("min", MINUTE, HOUR), ("h", HOUR, DAY)):
        if passed < limit:
            return f"{passed / size:.0f} {unit} ago"
    return f"{passed / DAY:.0f} d ago"


def figure_of(value: float | None, digits: int = 4) -> str:
    """A number with few digits; what is not finite keeps its name, and none is a dash."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "−Inf"
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, power = f"{value:.{digits - 2}e}".partition("e")
        return f"{mantissa} × 10{_superscript(int(power))}"
    return f"{value:.{digits}g}"


def loss(value: float | None) -> str:
    """A loss with three decimals, so that a changing one does not jump about."""
    size = abs(number(value))
    return f"{value:.3f}" if 0.01 <= size < 1000 else figure_of(value)


def near_one(value: float | None) -> str:
    """A correlation; close to 1 by its distance from 1, so that 0.99998 does not read as 1."""
    gap = 1 - number(value)
    return f"1 − {figure_of(gap, 3)}" if 0 < gap < 1e-3 else figure_of(value)


def measure(alert: Alert, value: float | None) -> str:
    """A value of the alert's quantity, with its unit unless the quantity's name says that."""
    written = near_one(value) if alert.quantity == "correlation" else figure_of(value)
    return written if alert.unit in ("", alert.quantity) else f"{written} {alert.unit}"


def _superscript(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def count(value: int | None) -> str:
    """A count with a thousands' separator; none is a dash."""
    return "–" if value is None else f"{value:,}"


def parameters(n: int | None) -> str:
    """A number of parameters: 1.2 M, 7.0 B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n and n >= size:
            return f"{n / size:.1f} {unit} parameters"
    return f"{n} parameters" if n else ""


def layers(alert: Alert) -> str:
    """The layers an alert names; "" where it is not about the model's depth."""
    first, last = alert.first_layer, alert.last_layer
    if first is None:
        return "all" if alert.stack else ""
    return f"layer {first}" if last in (None, first) else f"layers {first}–{last}"


def site(alert: Alert) -> str:
    """Where an alert was raised: stack, site and quantity in words."""
    parts = (alert.stack, alert.site, alert.quantity)
    return " / ".join(part.replace("_", " ") for part in parts if part)
