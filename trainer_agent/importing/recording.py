"""What was recorded, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire import Frame, Layout, Series, WireError

Values = NDArray[np.float32]


class RecordingError(Exception):
    """A file that cannot be imported; the message is the one line that the user sees."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Series over steps.

    Attributes:
        steps: int64 (steps,), ascending.
        times: float64 (steps,), seconds since the epoch.
        series: float32 (steps, n) each; `wire.ABSENT` where a step has no value.
        project, name: how the file's own program filed the run, "" where it does not tell.
        config: the run's settings, as far as the file holds them.
        remarks: what of the file is not in here, each in one line.
    """

    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    series: Mapping[Series, Values]
    project: str = ""
    name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def layout(self) -> Layout:
        """The layout of its frames.

        Raises:
            RecordingError: where it has more series than a run may have.
        """
        try:
            return Layout(tuple(self.series)).validate()
        except WireError as error:
            raise RecordingError(f"{error}; leave names out with --map 'NAME=-'") from error

    def frames(self, after: int, count: int) -> Iterator[Frame]:
        """So many frames past number `after`; they are numbered from 1."""
        layout = self.layout
        for row in range(after, min(after + count, len(self.steps))):
            yield Frame.pack(
                seq=row + 1,
                step=int(self.steps[row]),
                time=float(self.times[row]),
                layout=layout.hash,
                values=np.concatenate([values[row] for values in self.series.values()]),
            )


def recording(
    path: Path,
    steps: NDArray[np.int64],
    times: NDArray[np.float64],
    series: Mapping[Series, Values],
    **details: Any,
) -> Recording:
    """A recording of what a file held, checked and in order.

    Args:
        path: the file, for its errors.
        steps, times, series: as a `Recording` has them, in any order of steps.
        details: the other fields of a `Recording`.

    Raises:
        RecordingError: if nothing is in it, or a step is negative.
    """
    if not len(steps) or not series:
        raise RecordingError(f"{path} holds no steps: its program logged no numbers")
    if steps.min() < 0:
        raise RecordingError(f"{path} has the negative step {steps.min()}; steps count from 0")
    order = np.argsort(steps, kind="stable")
    return Recording(
        steps=steps[order],
        times=_filled(times[order], path),
        series={key: values[order] for key, values in series.items()},
        **details,
    )


def _filled(times: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """The times, and where one is absent the last before it, or else the first of all.

    Where the file holds none, the time at which it was last written.
    """
    present = np.isfinite(times)
    if not present.any():
        return np.full_like(times, path.stat().st_mtime)
    latest = np.maximum.accumulate(np.where(present, np.arange(len(times)), -1))
    return times[np.where(latest < 0, np.argmax(present), latest)]
