"""Derived series from the measured ones of a window of steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from dslm.ahead import QUANTITIES, Ahead, predict_ahead
from server.profiles.derived.alignments import alignments
from server.profiles.derived.model_facts import ModelFacts
from server.profiles.derived.names import DerivedSeries, raw_key
from server.storage.measurements import Measured
from wire import ABSENT, is_absent

Floats = NDArray[np.float64]


def derive(
    measured: Measured,
    rows: NDArray[np.int64],
    requested: Iterable[DerivedSeries],
    facts: ModelFacts,
) -> dict[str, NDArray[np.float32]]:
    """Each derived series at these rows, float32 (rows, n) by key.

    `wire.ABSENT` where nothing was measured, nothing is expected or variances do not tell; NaN
    where what was measured is not finite.

    Args:
        measured: the series that they need; earlier steps lie before the rows asked for.
        rows: rows of `measured`.
        requested: the series.
        facts: of the run's model.
    """
    series = {key: values.astype(np.float64) for key, values in measured.series.items()}
    computed: dict[tuple[str, str], Ahead] = {}
    cosines: dict[str, Mapping[str, Floats]] = {}
    derived: dict[str, NDArray[np.float32]] = {}
    for each in requested:
        if each.site == "alignment":
            values = _alignment(each, series, rows, facts, cosines)
        else:
            name = each.followed
            key = raw_key(each.stack, QUANTITIES[name])
            if (each.stack, name) not in computed:
                computed[each.stack, name] = predict_ahead(
                    name, series[key], rows, theory=facts.curve(key, series[key])
                )
            values = _part(computed[each.stack, name], each)
        nothing = _nothing(each, measured, rows, values)
        with np.errstate(over="ignore"):
            derived[each.key] = np.where(nothing, ABSENT, values.astype(np.float32))
    return derived


def _part(ahead: Ahead, series: DerivedSeries) -> Floats:
    edge = series.quantity.removeprefix(series.followed)
    if series.site == "innovation":
        return {
            "": ahead.innovation,
            "_low": ahead.innovation_low,
            "_high": ahead.innovation_high,
        }[edge]
    if series.site == "reference":
        return ahead.reference
    return {"": ahead.curve, "_low": ahead.low, "_high": ahead.high}[edge]


def _alignment(
    series: DerivedSeries,
    measured: Mapping[str, Floats],
    rows: NDArray[np.int64],
    facts: ModelFacts,
    cosines: dict[str, Mapping[str, Floats]],
) -> Floats:
    if series.stack not in facts.sums:
        return np.full((len(rows), series.n), np.nan)
    if series.stack not in cosines:
        at_rows = {key: values[rows] for key, values in measured.items()}
        cosines[series.stack] = alignments(series.stack, at_rows, facts.sums[series.stack])
    return cosines[series.stack][series.quantity]


def _nothing(
    series: DerivedSeries, measured: Measured, rows: NDArray[np.int64], values: Floats
) -> NDArray[np.bool_]:
    """Where a value is missing for another reason than a measurement that is not finite."""
    broken = np.zeros_like(values, dtype=np.bool_)
    for key in series.needs:
        raw = measured.series[key][rows]
        bad = ~np.isfinite(raw) & ~is_absent(raw)
        if series.site == "innovation":
            broken |= touched_blocks(bad, series.n)
        else:
            broken |= np.any(bad, axis=1, keepdims=True)
    return np.isnan(values) & ~broken


def touched_blocks(bad: NDArray[np.bool_], n: int) -> NDArray[np.bool_]:
    """Which of n blocks a flag on the stream's places, or on the blocks themselves, touches."""
    return bad if bad.shape[-1] == n else np.logical_or(bad[:, :-1], bad[:, 1:])
