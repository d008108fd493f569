"""TensorBoard event files: their scalars, as a recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from trainer_agent.importing.naming import Place, Rule, places
from trainer_agent.importing.recording import Recording, ReplayError, Values, recording
from wire import Series

Point = tuple[str, int, float, float]  # name, step, seconds since the epoch, value


def read_event_files(paths: Sequence[Path], rules: Iterable[Rule]) -> Recording:
    """The scalars of these files; of a step recorded twice, the later value.

    Raises:
        ReplayError: if TensorBoard is not installed, or the files hold no scalars.
    """
    points = sorted((point for path in paths for point in _points(path)), key=lambda one: one[2])
    steps = np.unique(np.array([step for _, step, _, _ in points], dtype=np.int64))
    times = np.full(len(steps), np.nan)
    where = places(dict.fromkeys(name for name, *_ in points), rules)
    series = _empty(where.values(), len(steps))
    rows = np.searchsorted(steps, [step for _, step, _, _ in points])
    for (name, _, time, value), row in zip(points, rows, strict=True):
        place = where[name]
        series[place.key][row, place.layer or 0] = value
        times[row] = time
    return recording(steps, times, {_series(key, one): one for key, one in series.items()})


def _empty(where: Iterable[Place], steps: int) -> dict[str, Values]:
    depths: dict[str, int] = {}
    for place in where:
        depths[place.key] = max(depths.get(place.key, 1), (place.layer or 0) + 1)
    return {key: np.full((steps, n), np.nan, np.float32) for key, n in depths.items()}


def _series(key: str, values: Values) -> Series:
    stack, site, quantity = key.split("/")
    return Series(stack, site, quantity, values.shape[1])


def _points(path: Path) -> Iterator[Point]:
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ReplayError(
            "TensorBoard is not installed, which reads event files; pip install tensorboard"
        ) from error
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                number = float(make_ndarray(value.tensor).reshape(-1)[0])
                yield value.tag, event.step, event.wall_time, number
