"""Frames of several steps: the scalars of steps that were not sampled, packed together.

Such a frame's layout begins with `AGE`, and its values are that layout's once for each step. Its
steps follow one another without a gap, and the frame's `step` and `time` are those of the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire.frame import Frame
from wire.layout import AGE, Layout, Series


@dataclass(frozen=True, slots=True)
class StepValues:
    """The scalars of steps that follow one another.

    Attributes:
        steps: int64 (steps,), each one more than the one before.
        times: float64 (steps,), seconds since the epoch when the step ended.
        values: float32 (steps, scalars), in the order of `scalars_of`.
    """

    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    values: NDArray[np.float32]


def steps_layout(names: Iterable[str]) -> Layout:
    """The layout of frames that hold these scalars of several steps."""
    return Layout((AGE, *(Series("", name, "value", 1) for name in names)))


def scalars_of(layout: Layout) -> tuple[Series, ...]:
    """The series of a layout that packs steps, without `AGE`."""
    return layout.series[1:]


def pack_steps(times: Sequence[float], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vector of a frame, from the times of its steps and their scalars, (steps, scalars)."""
    ages = times[-1] - np.asarray(times, dtype=np.float64)
    return np.column_stack([ages.astype(np.float32), values]).reshape(-1).astype(np.float32)


def unpack_steps(frame: Frame, layout: Layout) -> StepValues:
    """The steps of a frame whose layout packs steps."""
    rows = frame.unpack().reshape(-1, layout.size)
    return StepValues(
        steps=np.arange(frame.step - len(rows) + 1, frame.step + 1),
        times=frame.time - rows[:, 0].astype(np.float64),
        values=rows[:, 1:],
    )


def first_step(frame: Frame, layout: Layout) -> int:
    """The first step of a frame: its own where it holds one."""
    return frame.step - len(frame.values) // (4 * layout.size) + 1
