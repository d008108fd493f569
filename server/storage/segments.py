"""A segment: consecutive frames of one rank and layout, turned into a row for each series."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.storage.codec import pack, pack_series, unpack
from server.storage.rows import FrameRow, ScalarRow, SegmentRow
from wire import ABSENT, Layout, is_absent

ROLLUP = 16  # frames that one rollup covers
SUMMARIES = ("min", "mean", "max")


def segment_row(frames: Sequence[FrameRow]) -> SegmentRow:
    """The row of `blocks` for these frames, ascending in `seq`."""
    first, last = frames[0], frames[-1]
    steps = np.array([frame.step for frame in frames])
    return SegmentRow(
        run_id=first.run_id,
        rank=first.rank,
        first_seq=first.seq,
        last_seq=last.seq,
        first_step=int(steps.min()),
        last_step=int(steps.max()),
        layout=first.layout,
        n=len(frames),
        seqs=pack(np.array([frame.seq for frame in frames]), "<i8"),
        steps=pack(steps, "<i8"),
        times=pack(np.array([frame.time for frame in frames]), "<f8"),
    )


def series_rows(frames: Sequence[FrameRow], layout: Layout) -> list[dict[str, Any]]:
    """The rows of `chunks` for these frames: every series in full and as rollups."""
    values = np.stack([np.frombuffer(frame.values, dtype="<f4") for frame in frames])
    first = frames[0]
    key = {"run_id": first.run_id, "rank": first.rank, "first_seq": first.seq}
    rows = []
    for name, columns in layout.slices.items():
        series = values[:, columns]
        rollups = np.concatenate(list(rolled_up(series).values()), axis=1)
        rows += [
            {**key, "series": name, "level": 0, "data": pack_series(series)},
            {**key, "series": name, "level": ROLLUP, "data": pack_series(rollups)},
        ]
    return rows


def rolled_up(series: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Least, mean and greatest of every `ROLLUP` frames; (frames, n) becomes (rollups, n).

    NaN is passed over unless a rollup holds nothing else; an infinite value stays one. Absent
    values are passed over likewise, and a rollup of them alone is absent.
    """
    groups = [series[start : start + ROLLUP] for start in range(0, len(series), ROLLUP)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy warns of a group of NaN alone
        # float64: the mean of float32 values may overflow on its way.
        means = [np.nanmean(group, axis=0, dtype=np.float64) for group in groups]
        rollups = {
            "min": np.stack([np.nanmin(group, axis=0) for group in groups]),
            "mean": np.stack(means).astype(np.float32),
            "max": np.stack([np.nanmax(group, axis=0) for group in groups]),
        }
    absent = np.stack([is_absent(group).all(axis=0) for group in groups])
    return {name: np.where(absent, ABSENT, values) for name, values in rollups.items()}


def leading_layout(frames: Sequence[FrameRow]) -> Sequence[FrameRow]:
    """The leading frames that share the first one's layout."""
    for index, frame in enumerate(frames):
        if frame.layout != frames[0].layout:
            return frames[:index]
    return frames


def seqs_of(segment: SegmentRow | ScalarRow) -> NDArray[np.int64]:
    """The numbers of a segment's frames, int64 (frames,), ascending."""
    return unpack(segment.seqs, "<i8")


def steps_of(segment: SegmentRow | ScalarRow) -> NDArray[np.int64]:
    """The steps of a segment's frames, int64 (frames,)."""
    return unpack(segment.steps, "<i8")


def times_of(segment: SegmentRow | ScalarRow) -> NDArray[np.float64]:
    """The times of a segment's frames in seconds since the epoch, float64 (frames,)."""
    return unpack(segment.times, "<f8")
