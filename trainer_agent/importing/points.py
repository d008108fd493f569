"""From single numbers to series over steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer_agent.importing.column_map import ColumnMap, Place
from trainer_agent.importing.recording import Recording, Values, recording
from wire import ABSENT, Series


@dataclass(slots=True)
class Point:
    """One recorded number, or one a layer.

    Attributes:
        name: what its program called it.
        step: the step it belongs to.
        time: seconds since the epoch, NaN where not known.
        value: the number, or (layers,) numbers.
    """

    name: str
    step: int
    time: float
    value: float | Sequence[float]


def recording_of(
    path: Path, points: Iterable[Point], columns: ColumnMap, **details: Any
) -> Recording:
    """Points as a recording; of a step that has several values of one name, the last.

    Args:
        path: the file, for its errors.
        points: in the order in which they were recorded.
        columns: says which series their names belong to.
        details: further fields of the `Recording`.

    Raises:
        RecordingError: if there are none, or two names would be one series.
    """
    points = list(points)
    places = columns.places(point.name for point in points)
    points = [point for point in points if point.name in places]
    steps = np.unique(np.array([point.step for point in points], dtype=np.int64))
    rows = np.searchsorted(steps, [point.step for point in points])
    times = np.full(len(steps), np.nan)
    series = _empty(points, places, len(steps))
    with np.errstate(over="ignore"):  # a float64 may be infinite as a float32
        for point, row in zip(points, rows, strict=True):
            _fill(series[places[point.name].key][row], places[point.name].layer, point.value)
            # Evaluations of a step may be logged without the time that the step was.
            times[row] = point.time if np.isfinite(point.time) else times[row]
    by_series = {_series(key, values): values for key, values in series.items()}
    return recording(path, steps, times, by_series, **details)


def _fill(row: Values, layer: int | None, value: float | Sequence[float]) -> None:
    if isinstance(value, Sequence):
        row[: len(value)] = value
    else:
        row[layer or 0] = value


def _empty(points: Iterable[Point], places: Mapping[str, Place], n_steps: int) -> dict[str, Values]:
    lengths: dict[str, int] = {}
    for point in points:
        place, value = places[point.name], point.value
        n = len(value) if isinstance(value, Sequence) else (place.layer or 0) + 1
        lengths[place.key] = max(lengths.get(place.key, 1), n)
    return {key: np.full((n_steps, n), ABSENT) for key, n in lengths.items()}


def _series(key: str, values: NDArray[Any]) -> Series:
    stack, site, quantity = key.split("/", 2)
    return Series(stack, site, quantity, values.shape[1])
