"""From the sums of a step to the values of its frame, on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trainer_agent.capture import accumulator as columns
from trainer_agent.capture import moments
from trainer_agent.capture.accumulator import Sums
from trainer_agent.capture.plan import Place, Plan

Vector = NDArray[np.float64]


def frame_values(plan: Plan, sums: Sums, scalars: Sequence[float]) -> NDArray[np.float32]:
    """Values in the order of ``plan.layout(...)``; `scalars` ends with the overhead."""
    parts = [_site(place, sums)[quantity] for place, quantity in _series(plan)]
    parts.append(np.array(scalars, dtype=np.float64))
    with np.errstate(over="ignore"):
        return np.concatenate(parts).astype(np.float32)


def silent_places(plan: Plan, fired: NDArray[np.bool_]) -> tuple[str, ...]:
    """Names of the rows of moment sums that have never had a value."""
    return tuple(
        f"{place.stack}/{place.site}[{index}]"
        for place in plan.places
        for index in range(place.n)
        if not fired[place.first + index]
    )


def unscaled(plan: Plan, sums: Sums, scale: float) -> Sums:
    """The sums as they would be without the scale that the gradients carry."""
    divisors = np.ones(moments.COLUMNS)
    divisors[moments.SUM] = scale
    divisors[[moments.SQUARES, moments.PAIR_PRODUCTS]] = scale**2
    rows = sums.moments.copy()
    for place in plan.places:
        if place.site == "stream_gradient":
            rows[place.first : place.first + place.n] /= divisors
    return replace(sums, moments=rows)


def _series(plan: Plan) -> list[tuple[Place, str]]:
    places = (*plan.places, *plan.logit_places)
    return [(place, quantity) for place in places for quantity in place.quantities]


def _site(place: Place, sums: Sums) -> Mapping[str, Vector]:
    rows = slice(place.first, place.first + place.n)
    if place.site == "attention_logits":
        return logit_statistics(sums.logits[rows], sums.logit_max[rows])
    return statistics(sums.moments[rows])


def statistics(rows: NDArray[np.float64]) -> dict[str, Vector]:
    """Mean, variance, token correlation and share of non-finite values, NaN where unseen."""
    with np.errstate(all="ignore"):
        count = rows[:, moments.COUNT]
        mean = rows[:, moments.SUM] / count
        # Rounding may leave a constant tensor a hair below zero; NaN stays NaN.
        variance = np.maximum(rows[:, moments.SQUARES] / count - mean**2, 0.0)
        covariance = rows[:, moments.PAIR_PRODUCTS] / rows[:, moments.PAIRS] - mean**2
        correlation = covariance / variance
        nonfinite = rows[:, moments.NONFINITE] / count
    return {
        "mean": mean,
        "variance": variance,
        "correlation": np.where(np.isinf(correlation), np.nan, correlation),
        "nonfinite": nonfinite,
    }


def logit_statistics(rows: NDArray[np.float64], largest: Vector) -> dict[str, Vector]:
    """Maximum, variance and mean entropy in nats of attention logits, NaN where unseen."""
    with np.errstate(all="ignore"):
        count = rows[:, columns.LOGIT_COUNT]
        mean = rows[:, columns.LOGIT_SUM] / count
        variance = np.maximum(rows[:, columns.LOGIT_SQUARES] / count - mean**2, 0.0)
        entropy = rows[:, columns.ENTROPY_SUM] / rows[:, columns.ENTROPY_COUNT]
    return {
        "max": np.where(count > 0, largest, np.nan),
        "variance": variance,
        "entropy": entropy,
    }
