"""What only pages written by Python say in words: ages, alerts, sizes, statuses."""

from __future__ import annotations

import time

from dashboard.api_types import Alert
from dashboard.display.numbers import format_age, format_number
from dashboard.vectors import number


def age(then: float | None) -> str:
    """How long ago, from seconds since the epoch."""
    return format_age(then, time.time())


def correlation(value: float | None) -> str:
    """A correlation; close to 1 by its distance from 1, so that 0.99998 does not read as 1."""
    gap = 1 - number(value)
    return f"1 − {format_number(gap, 3)}" if 0 < gap < 1e-3 else format_number(value)


def measure(alert: Alert, value: float | None) -> str:
    """A value of the alert's quantity, with its unit unless the quantity's name says that."""
    written = correlation(value) if alert.quantity == "correlation" else format_number(value)
    return written if alert.unit in ("", alert.quantity) else f"{written} {alert.unit}"


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
