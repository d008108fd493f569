"""Numbers, counts and times as text. Translated to JavaScript, see `dashboard.display`."""

from __future__ import annotations

import math

MINUTE = 60
HOUR = 3600
DAY = 86_400
SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"


def superscript(power: int) -> str:
    """An exponent in superscript digits."""
    text = "⁻" if power < 0 else ""
    for digit in str(abs(power)):
        text += SUPERSCRIPTS[int(digit)]
    return text


def format_number(value: float | None, digits: int = 4) -> str:
    """A number with about `digits` digits; NaN and infinities by name, None as a dash."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "−Inf"
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e5:
        # The power of ten takes the room of two digits.
        mantissa, power = f"{value:.{digits - 2}e}".split("e")
        return f"{mantissa} × 10{superscript(int(power))}"
    # From so many digits on, Python's g would write an exponent.
    return f"{value:.0f}" if size >= 10.0 ** (digits - 1) else f"{value:.{digits}g}"


def format_loss(value: float | None) -> str:
    """A loss with three decimals: a width that does not change while the loss does."""
    if value is None or not math.isfinite(value) or abs(value) < 0.01 or abs(value) >= 1000:
        return format_number(value)
    return f"{value:.3f}"


def format_count(value: int | None) -> str:
    """A count with a thousands' separator, None as a dash."""
    return "–" if value is None else f"{value:,}"


def format_age(then: float | None, now: float) -> str:
    """How long ago, both in seconds since the epoch, in the largest fitting unit."""
    if then is None or then == 0:
        return "never"
    passed = max(0, now - then)
    if passed < MINUTE:
        return f"{passed:.0f} s ago"
    if passed < HOUR:
        return f"{passed / MINUTE:.0f} min ago"
    return f"{passed / HOUR:.0f} h ago" if passed < DAY else f"{passed / DAY:.0f} d ago"
