"""What the optional measurements show: logits too large, values lost or dead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from server.alerts.rules.depth import longest_run, number
from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Floats, Observation
from server.alerts.rules.running_stats import RunningStats

LARGE_LOG_Z = 30.0  # healthy runs here stayed under 9; ln of 256,000 words is 12.5
DEAD = 0.99

LOG_Z = Advice(
    "Add a z-loss, 10⁻⁴ times the mean square of log Z, or lower the learning rate of the head: "
    "bfloat16 tells logits of this size apart by 0.125 and more."
)
OVERFLOW = Advice(
    "Keep this site in bfloat16 or float32, or scale it down, before the model is trained or "
    "served in float16."
)
DYING = Advice(
    "Look at the activation in front: a unit that is never positive passes no gradient. Lower the "
    "learning rate, or use an activation without a flat side."
)


def log_z_growth(observation: Observation, _stats: RunningStats) -> list[Finding]:
    """The final logits' log Z, as its root mean square, is at least 30."""
    squares = observation.series("", "log_z", "mean_square")
    # Of the mean of squares, since log Z drifts to either side.
    size = float(np.sqrt(squares[0])) if squares is not None and len(squares) else float("nan")
    if not LARGE_LOG_Z <= size < float("inf"):
        return []
    return [
        Finding(
            rule="log_z_growth",
            severity="warning",
            title="The final logits are drifting",
            message=f"At step {observation.step} log Z of the final softmax is {number(size)} as "
            "its root mean square; it starts near the logarithm of the vocabulary's size.",
            advice=LOG_Z,
            step=observation.step,
            site="log_z",
            quantity="mean_square",
            measured=size,
            unit="nats",
            badness=size,
        )
    ]


def format_overflow(observation: Observation, _stats: RunningStats) -> list[Finding]:
    """Some values are too large for float16; information, since the job may not use it."""
    findings = []
    for stack, site, share in _measured(observation, "fp16_overflow"):
        holds = share > 0
        if holds.any():
            worst = int(np.nanargmax(share))
            text = (
                f"{number(float(share[worst]))} of the values of the {stack}'s "
                f"{site.replace('_', ' ')} at layer {worst} are too large for float16 (65,504)."
            )
            series = stack, site, "fp16_overflow"
            findings.append(
                _over_depth(
                    observation,
                    "format_overflow",
                    series,
                    holds=holds,
                    values=share,
                    text=text,
                    advice=OVERFLOW,
                )
            )
    return findings


def dead_units(observation: Observation, _stats: RunningStats) -> list[Finding]:
    """At least 99 % of a site's values are exactly zero."""
    findings = []
    for stack, site, share in _measured(observation, "zeros"):
        holds = share >= DEAD
        if holds.any() and not site.endswith("gradient"):  # padding has no gradient, rightly
            worst = int(np.nanargmax(share))
            text = (
                f"{float(share[worst]):.1%} of the values of the {stack}'s "
                f"{site.replace('_', ' ')} at layer {worst} are exactly zero."
            )
            series = stack, site, "zeros"
            findings.append(
                _over_depth(
                    observation,
                    "dead_units",
                    series,
                    holds=holds,
                    values=share,
                    text=text,
                    advice=DYING,
                )
            )
    return findings


def _measured(observation: Observation, quantity: str) -> Iterator[tuple[str, str, Floats]]:
    """(stack, site, values) of each series of this quantity over depth that has any value."""
    for key, values in observation.values.items():
        stack, site, name = key.split("/", 2)
        if stack and name == quantity and not np.isnan(values).all():
            yield stack, site, values


def _over_depth(
    observation: Observation,
    rule: str,
    series: tuple[str, str, str],
    *,
    holds: NDArray[np.bool_],
    values: Floats,
    text: str,
    advice: Advice,
) -> Finding:
    span = longest_run(holds)
    worst = float(np.nanmax(values))
    stack, site, quantity = series
    return Finding(
        rule=rule,
        severity="info",
        title=TITLES[rule],
        message=f"At step {observation.step} {text}",
        advice=advice,
        step=observation.step,
        stack=stack,
        site=site,
        quantity=quantity,
        first_layer=span.first if span else None,
        last_layer=span.last if span else None,
        measured=worst,
        unit="share of values",
        badness=worst,
    )


TITLES = {
    "format_overflow": "Values are too large for float16",
    "dead_units": "Nearly all values are zero",
}
