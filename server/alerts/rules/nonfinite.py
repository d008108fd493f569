"""NaN and Inf in the loss, the residual stream or its gradient."""

from __future__ import annotations

from math import isinf, isnan

import numpy as np
from numpy.typing import NDArray

from server.alerts.rules.depth import Span, longest_run
from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Floats, Observation
from server.alerts.rules.running_stats import RunningStats

RULE = "nonfinite"
ADVICE = Advice(
    "Stop the run and go back to the last checkpoint from before this step. In half precision look "
    "for an overflow in the first layer named; otherwise lower the learning rate or clip gradients."
)
SITES = {"stream": "residual stream", "stream_gradient": "gradient of the residual stream"}


def nonfinite(observation: Observation, stats: RunningStats) -> list[Finding]:
    """Critical on the first NaN or Inf, naming where on its way the signal broke first."""
    streams = [
        _in_stream(observation, stack, site) for stack in observation.stacks for site in SITES
    ]
    findings = [*streams, _in_loss(observation, stats)]
    return [finding for finding in findings if finding is not None]


def _in_stream(observation: Observation, stack: str, site: str) -> Finding | None:
    share = observation.series(stack, site, "nonfinite")
    variance = observation.series(stack, site, "variance")
    if share is None or variance is None or share.shape != variance.shape:
        return None
    # A NaN variance alone means "not measured"; an infinite one overflowed float32.
    broken = (share > 0) | np.isinf(variance)
    if not broken.any():
        return None
    layers = np.flatnonzero(broken)
    # A gradient flows from the top down: the first layer it breaks in is the highest one.
    first = int(layers[-1] if site == "stream_gradient" else layers[0])
    return _finding(observation, stack, site, first=first, broken=broken, share=share)


def _finding(
    observation: Observation,
    stack: str,
    site: str,
    *,
    first: int,
    broken: NDArray[np.bool_],
    share: Floats,
) -> Finding:
    span = longest_run(broken) or Span(first, first)
    worst = float(np.nanmax(share)) if (share > 0).any() else float("inf")
    how_much = f"{worst:.0%} of the values" if np.isfinite(worst) else "the variance"
    return Finding(
        rule=RULE,
        severity="critical",
        title=f"NaN or Inf in the {SITES[site]}",
        message=(
            f"At step {observation.step} the {stack}'s {SITES[site]} is NaN or Inf first at "
            f"layer {first} and in {int(broken.sum())} of {len(broken)} layers ({span}); "
            f"in the worst of them {how_much}."
        ),
        advice=ADVICE,
        step=observation.step,
        stack=stack,
        site=site,
        quantity="nonfinite",
        first_layer=int(np.flatnonzero(broken)[0]),
        last_layer=int(np.flatnonzero(broken)[-1]),
        measured=worst,
        predicted=0.0,
        unit="share of values",
        badness=1.0,  # however far it spreads later, where it began is what explains it
    )


def _name(value: float) -> str:
    return "NaN" if isnan(value) else "Inf" if value > 0 else "-Inf"


def _in_loss(observation: Observation, stats: RunningStats) -> Finding | None:
    loss = observation.scalar("loss")
    # From an older agent a NaN also means "not given": it says something only after a finite loss.
    unknown = "/loss/value" in observation.absent or not (isinf(loss) or stats.losses)
    if np.isfinite(loss) or unknown:
        return None
    return Finding(
        rule=RULE,
        severity="critical",
        title=f"The loss is {_name(loss)}",
        message=f"At step {observation.step} the loss is {_name(loss)}"
        + (f"; the last finite one was {stats.losses[-1]:.3f}." if stats.losses else "."),
        advice=ADVICE,
        step=observation.step,
        site="loss",
        quantity="value",
        measured=loss,
        unit="nats",
        badness=1.0,
    )
