"""What was recorded, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire import Frame, Layout, Series

Values = NDArray[np.float32]


class ReplayError(Exception):
    """A recording that cannot be replayed; the message is the one line that the user sees."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Series over steps.

    Attributes:
        steps: int64 (steps,), ascending.
        times: float64 (steps,), seconds since the epoch.
        series: float32 (steps, n) each; NaN where a step has no value.
    """

    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    series: Mapping[Series, Values]

    @property
    def layout(self) -> Layout:
        """The layout of its frames."""
        return Layout(tuple(self.series)).validate()

    def frames(self, after: int, count: int) -> Iterator[Frame]:
        """So many frames past number `after`; they are numbered from 1."""
        layout = self.layout
        for at in range(after, min(after + count, len(self.steps))):
            yield Frame.pack(
                seq=at + 1,
                step=int(self.steps[at]),
                time=float(self.times[at]),
                layout=layout.hash,
                values=np.concatenate([values[at] for values in self.series.values()]),
            )


def recording(
    steps: NDArray[np.int64], times: NDArray[np.float64], series: Mapping[Series, Values]
) -> Recording:
    """A recording of what a file held, checked and in order.

    Raises:
        ReplayError: if nothing is in it, or a step is negative.
    """
    if not len(steps) or not series:
        raise ReplayError("the file holds no steps")
    if steps.min() < 0:
        raise ReplayError(f"step {steps.min()} is negative; steps count from 0")
    order = np.argsort(steps, kind="stable")
    return Recording(
        steps=steps[order],
        times=_known(times[order]),
        series={one: values[order] for one, values in series.items()},
    )


def _known(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each time, or the last known one before it where it is not."""
    latest = np.maximum.accumulate(np.where(np.isfinite(times), np.arange(len(times)), -1))
    return np.where(latest < 0, 0.0, times[np.maximum(latest, 0)])
