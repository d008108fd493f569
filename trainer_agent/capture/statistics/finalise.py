"""From the sums of a step to the values of its frame, on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trainer_agent.capture.statistics import columns
from trainer_agent.capture.statistics.precision import significand_bits
from trainer_agent.capture.statistics.sums import Matrix, Sums
from trainer_agent.model.plan import Place, Plan
from wire import ABSENT

Vector = NDArray[np.float64]
NO_VALUE = float(ABSENT)


def frame_values(plan: Plan, sums: Sums, scalars: Sequence[float]) -> NDArray[np.float32]:
    """Values in the order of ``plan.layout(...)``; `scalars` ends with the overhead."""
    statistics: dict[tuple[str, bool], Mapping[str, Vector]] = {}
    parts: list[Vector] = []
    for place, quantity in plan.series:
        # All tensors at once, and so on: small arrays cost by their number, not by their size.
        table = place.kind if place.kind in ("tensor", "logits") else place.site
        key = table, place.kind == "parameters" and not place.stack
        if key not in statistics:
            statistics[key] = _KINDS[place.kind](plan, place, sums)
        parts.append(statistics[key][quantity][place.first : place.first + place.n])
    parts.append(np.array(scalars, dtype=np.float64))
    # Values past float32 become infinite, which the server shows as what they are.
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
    """The sums as they would be without the scale that the gradients carry.

    Shares lost to a number format stay as they are: the job computes the scaled tensors.
    """
    divisors = np.ones(columns.COLUMNS)
    divisors[columns.SUM] = scale
    divisors[[columns.SQUARES, columns.PAIR_PRODUCTS]] = scale**2
    powers = np.ones(columns.EXTRA_COLUMNS)
    powers[columns.CUBES], powers[columns.FOURTHS] = scale**3, scale**4
    rows, extra, largest = sums.moments.copy(), sums.extra.copy(), sums.extra_max.copy()
    for place in plan.places:
        # Gradients of parameters are read after the scaler has divided them.
        if place.site == "stream_gradient":
            gradients = slice(place.first, place.first + place.n)
            rows[gradients] /= divisors
            extra[gradients] /= powers
            largest[gradients] /= scale
    return replace(sums, moments=rows, extra=extra, extra_max=largest)


def _tensors(_plan: Plan, _place: Place, sums: Sums) -> Mapping[str, Vector]:
    statistics = moment_statistics(sums.moments)
    statistics["bits"] = np.where(
        sums.precision[:, 0] != 0, significand_bits(sums.precision), NO_VALUE
    )
    if len(sums.extra):
        statistics |= extra_statistics(sums.moments, sums.extra, sums.extra_max)
    return _where_counted(sums.moments[:, columns.COUNT], statistics)


def _where_counted(count: Vector, statistics: Mapping[str, Vector]) -> dict[str, Vector]:
    """Absent where nothing was counted: a block that a step skips has no values, and no NaN."""
    return {name: np.where(count != 0, v, NO_VALUE) for name, v in statistics.items()}


def _logits(_plan: Plan, _place: Place, sums: Sums) -> Mapping[str, Vector]:
    return logit_statistics(sums.logits, sums.logit_max)


def _head(plan: Plan, place: Place, sums: Sums) -> Mapping[str, Vector]:
    by_head = sums.heads.reshape(-1, plan.heads, columns.LOGIT_COLUMNS)
    largest = sums.head_max.reshape(-1, plan.heads)
    return logit_statistics(by_head[:, place.head], largest[:, place.head])


def _parameters(plan: Plan, place: Place, sums: Sums) -> Mapping[str, Vector]:
    if not place.stack:
        return parameter_statistics(place.site, sums.parameters.sum(0, keepdims=True))
    # Only here: copies on the device would count twice in the whole model.
    return parameter_statistics(place.site, sums.parameters[list(plan.counted_rows)])


def _log_z(_plan: Plan, _place: Place, sums: Sums) -> Mapping[str, Vector]:
    return log_z_statistics(sums.log_z)


_KINDS: Mapping[str, Callable[[Plan, Place, Sums], Mapping[str, Vector]]] = {
    "tensor": _tensors,
    "logits": _logits,
    "head": _head,
    "parameters": _parameters,
    "log_z": _log_z,
}


def moment_statistics(rows: Matrix) -> dict[str, Vector]:
    """Mean, variance, token correlation and share of non-finite values; NaN without a count."""
    with np.errstate(all="ignore"):
        count = rows[:, columns.COUNT]
        mean = rows[:, columns.SUM] / count
        # Rounding may leave a constant tensor a hair below zero; NaN stays NaN.
        variance = np.maximum(rows[:, columns.SQUARES] / count - mean**2, 0.0)
        # A place without pairs (one token a sequence) divides by zero here, and has none.
        covariance = rows[:, columns.PAIR_PRODUCTS] / rows[:, columns.PAIRS] - mean**2
        correlation = covariance / variance
        correlation = np.where(np.isinf(correlation), np.nan, correlation)
        nonfinite = rows[:, columns.NONFINITE] / count
        rms = np.sqrt(rows[:, columns.SQUARES] / count)
    return {
        "mean": mean,
        "variance": variance,
        "correlation": np.where(rows[:, columns.PAIRS] == 0, NO_VALUE, correlation),
        "nonfinite": nonfinite,
        "rms": rms,
    }


def extra_statistics(rows: Matrix, extra: Matrix, largest: Vector) -> dict[str, Vector]:
    r"""Largest value, kurtosis, token ranks and shares, NaN where nothing was counted.

    Kurtosis is :math:`E[(x - \mu)^4] / \sigma^4`: 3 for a Gaussian.
    """
    with np.errstate(all="ignore"):
        count = rows[:, columns.COUNT]
        mean, second = rows[:, columns.SUM] / count, rows[:, columns.SQUARES] / count
        third, fourth = extra[:, columns.CUBES] / count, extra[:, columns.FOURTHS] / count
        central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
        kurtosis = central / (second - mean**2) ** 2
        shares = {name: extra[:, at] / count for name, at in columns.RANGE_COLUMNS.items()}
        zeros = extra[:, columns.ZEROS] / count
        ranks = {
            name: extra[:, at] / extra[:, columns.RANKED]
            for name, at in columns.RANK_COLUMNS.items()
        }
    return {
        "absmax": np.where(count > 0, largest, np.nan),
        "kurtosis": np.where(np.isinf(kurtosis), np.nan, kurtosis),
        "zeros": zeros,
        **ranks,
        **shares,
    }


def parameter_statistics(site: str, rows: Matrix) -> dict[str, Vector]:
    """RMS of weights or gradients, or the update relative to the weights and the second moment."""
    with np.errstate(all="ignore"):
        if site == "updates":
            second_moment = rows[:, columns.SECOND_MOMENT_SUM] / rows[:, columns.SECOND_MOMENTS]
            ratio = np.sqrt(rows[:, columns.CHANGES] / rows[:, columns.CHANGED_SQUARES])
            ratios = _where_counted(rows[:, columns.CHANGED_SQUARES], {"ratio": ratio})
            counted = rows[:, columns.SECOND_MOMENTS]
            return ratios | _where_counted(counted, {"second_moment": second_moment})
        count, squares = (
            (columns.WEIGHTS, columns.WEIGHT_SQUARES)
            if site == "weights"
            else (columns.GRADIENTS, columns.GRADIENT_SQUARES)
        )
        rms = np.sqrt(rows[:, squares] / rows[:, count])
        return _where_counted(rows[:, count], {"rms": rms})


def log_z_statistics(rows: Matrix) -> dict[str, Vector]:
    """Mean of log Z and of its square over the sampled tokens; absent without a count."""
    with np.errstate(all="ignore"):
        count = rows[:, columns.LOG_Z_COUNT]
        statistics = {
            "mean": rows[:, columns.LOG_Z_SUM] / count,
            "mean_square": rows[:, columns.LOG_Z_SQUARES] / count,
        }
    return _where_counted(count, statistics)


def logit_statistics(rows: Matrix, largest: Vector) -> dict[str, Vector]:
    """Maximum, variance and mean entropy in nats of attention logits; absent without a count."""
    with np.errstate(all="ignore"):
        count = rows[:, columns.LOGIT_COUNT]
        mean = rows[:, columns.LOGIT_SUM] / count
        variance = np.maximum(rows[:, columns.LOGIT_SQUARES] / count - mean**2, 0.0)
        entropy = rows[:, columns.ENTROPY_SUM] / rows[:, columns.ENTROPY_COUNT]
    statistics = {"max": largest, "variance": variance, "entropy": entropy}
    return _where_counted(count, statistics)
