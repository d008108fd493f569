"""How the scalars of steps that were not sampled are stored: up to `STEPS_A_ROW` steps a row.

A frame of them is appended to its rank's newest row until that is full: a job that sends one a
second takes a row every few minutes, and its complete loss is a few rows to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.runs.rewinds import Rewind
from server.storage.codec import pack, pack_series, unpack_series
from server.storage.rows import ScalarRow
from server.storage.segments import seqs_of, steps_of, times_of
from wire import Frame, Layout, scalars_of, unpack_steps

STEPS_A_ROW = 1024


@dataclass(frozen=True, slots=True)
class StepScalars:
    """Scalars of steps, ascending in `seqs`.

    Attributes:
        layout: hash of their layout, which packs steps.
        seqs: int64 (steps,), the numbers of the frames that brought them.
        steps: int64 (steps,).
        times: float64 (steps,), seconds since the epoch.
        values: float32 (steps, scalars), in the order of `wire.scalars_of`.
    """

    layout: str
    seqs: NDArray[np.int64]
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.steps)

    def where(self, rows: NDArray[np.bool_]) -> StepScalars:
        """Some of the steps, by a mask (steps,)."""
        seqs, steps, times = self.seqs[rows], self.steps[rows], self.times[rows]
        return StepScalars(self.layout, seqs, steps, times, self.values[rows])

    def series(self, layout: Layout) -> dict[str, NDArray[np.float32]]:
        """The values by the key of their series, each (steps, 1)."""
        keys = [series.key for series in scalars_of(layout)]
        return {key: self.values[:, at : at + 1] for at, key in enumerate(keys)}


@dataclass(frozen=True, slots=True)
class RankScalars:
    """Scalars of one rank."""

    rank: int
    scalars: StepScalars


def scalars_of_frame(frame: Frame, layout: Layout) -> StepScalars:
    """What a frame holds."""
    unpacked = unpack_steps(frame, layout)
    seqs = np.full(len(unpacked.steps), frame.seq)
    return StepScalars(frame.layout, seqs, unpacked.steps, unpacked.times, unpacked.values)


def scalars_of_row(row: ScalarRow) -> StepScalars:
    """What a row holds."""
    values = unpack_series(row.values, row.n)
    return StepScalars(row.layout, seqs_of(row), steps_of(row), times_of(row), values)


def current_steps(row: ScalarRow, rewinds: Sequence[tuple[int, Rewind]]) -> NDArray[np.int64]:
    """The steps of a row, without those that a resumed run has superseded."""
    steps = steps_of(row)
    return steps[_current(row, steps, rewinds)]


def current_scalars(row: ScalarRow, rewinds: Sequence[tuple[int, Rewind]]) -> RankScalars:
    """What a row holds, without the steps that a resumed run has superseded."""
    scalars = scalars_of_row(row)
    current = _current(row, scalars.steps, rewinds)
    return RankScalars(row.rank, scalars if current.all() else scalars.where(current))


def _current(
    row: ScalarRow, steps: NDArray[np.int64], rewinds: Sequence[tuple[int, Rewind]]
) -> NDArray[np.bool_]:
    current = np.ones(row.n, dtype=np.bool_)
    for rank, rewind in rewinds:
        if rank == row.rank and row.first_seq < rewind.seq:
            current &= (seqs_of(row) >= rewind.seq) | (steps < rewind.step)
    return current


def rows_after(
    newest: ScalarRow | None,
    frames: Iterable[Frame],
    layouts: Mapping[str, Layout],
    *,
    run_id: str,
    rank: int,
) -> list[ScalarRow]:
    """The rows to write for new frames of a rank, ascending in `seq`; one may replace `newest`."""
    rows: list[StepScalars] = []
    if newest is not None:
        rows.append(scalars_of_row(newest))
    n_before = len(rows)
    grown = False
    for frame in frames:
        more = scalars_of_frame(frame, layouts[frame.layout])
        if rows and _fits(rows[-1], more):
            grown |= len(rows) == n_before
            rows[-1] = _joined(rows[-1], more)
        else:
            rows.append(more)
    return [_row(run_id, rank, scalars) for scalars in rows[0 if grown else n_before :]]


def _fits(row: StepScalars, more: StepScalars) -> bool:
    after = bool(more.seqs[0] > row.seqs[-1])
    return after and more.layout == row.layout and len(row) + len(more) <= STEPS_A_ROW


def _joined(row: StepScalars, more: StepScalars) -> StepScalars:
    return StepScalars(
        row.layout,
        seqs=np.concatenate([row.seqs, more.seqs]),
        steps=np.concatenate([row.steps, more.steps]),
        times=np.concatenate([row.times, more.times]),
        values=np.concatenate([row.values, more.values]),
    )


def _row(run_id: str, rank: int, scalars: StepScalars) -> ScalarRow:
    return ScalarRow(
        run_id=run_id,
        rank=rank,
        first_seq=int(scalars.seqs[0]),
        last_seq=int(scalars.seqs[-1]),
        first_step=int(scalars.steps.min()),
        last_step=int(scalars.steps.max()),
        layout=scalars.layout,
        n=len(scalars),
        seqs=pack(scalars.seqs, "<i8"),
        steps=pack(scalars.steps, "<i8"),
        times=pack(scalars.times, "<f8"),
        values=pack_series(scalars.values),
    )
