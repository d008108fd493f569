"""Long runs at a glance: least, mean or greatest of every few frames, not every n-th frame.

Segments hold the rollups ready, so that a long history costs a sixteenth of its frames to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession

from server.storage.codec import unpack_series
from server.storage.downsample import Steps
from server.storage.measurements import (
    ANY_STEP,
    at_every_step,
    current_frames,
    read,
    recorded_steps,
    widths,
)
from server.storage.repository import MeasurementRepository
from server.storage.rows import SegmentRow
from server.storage.segments import ROLLUP, SUMMARIES, rolled_up, steps_of
from wire import Layout

Rollups = tuple[Steps, NDArray[np.float32]]


async def read_rollups(
    session: AsyncSession, run_id: str, layouts: Mapping[str, Layout], *, key: str, summary: str
) -> Rollups:
    """The first step of each rollup, ascending, and the series there, (rollups, n).

    Of several ranks, the lowest that has segments counts.
    """
    if at_every_step(layouts, key):
        return await _of_every_step(session, run_id, layouts, key, summary)
    repository = MeasurementRepository(session, run_id)
    segments = [
        segment
        for segment in await repository.segments_in(0, ANY_STEP)
        if _holds(layouts, segment, key)
    ]
    of_rank = [segment for segment in segments if segment.rank == segments[0].rank]
    intact, fresh_steps = await _split(repository, of_rank)
    fresh = await read(session, run_id, layouts, fresh_steps, [key])
    parts = await _stored(repository, intact, key, summary)
    if len(fresh_steps):
        parts.append((fresh_steps[::ROLLUP], rolled_up(fresh.series[key])[summary]))
    if not parts:
        return np.empty(0, np.int64), np.empty((0, fresh.series[key].shape[1]), np.float32)
    steps = np.concatenate([steps for steps, _ in parts])
    order = np.argsort(steps, kind="stable")  # frames rolled up anew lie among the stored ones
    return steps[order], np.concatenate([values for _, values in parts])[order]


async def _of_every_step(
    session: AsyncSession, run_id: str, layouts: Mapping[str, Layout], key: str, summary: str
) -> Rollups:
    """Rolled up when it is read: a number a step is little, and no segment holds all of them."""
    steps = await recorded_steps(session, run_id)
    measured = await read(session, run_id, layouts, steps, [key])
    return steps[::ROLLUP], rolled_up(measured.series[key])[summary]


async def _split(
    repository: MeasurementRepository, segments: Sequence[SegmentRow]
) -> tuple[list[SegmentRow], Steps]:
    """Segments whose stored rollups hold, and the steps of the frames that are rolled up anew.

    Those frames are in no segment yet, or in one that a resumed run has superseded in part.
    """
    intact: list[SegmentRow] = []
    steps = [np.array(await repository.frame_steps(-1, ANY_STEP), dtype=np.int64)]
    for segment in segments:
        current = current_frames(segment, await repository.rewinds())
        if current.all():
            intact.append(segment)
        else:
            steps.append(steps_of(segment)[current])
    return intact, np.unique(np.concatenate(steps))


async def _stored(
    repository: MeasurementRepository, segments: Sequence[SegmentRow], key: str, summary: str
) -> list[Rollups]:
    packed = await repository.packed_series(segments, [key], level=ROLLUP)
    rollups = []
    for segment in segments:
        steps = steps_of(segment)[::ROLLUP]
        columns = unpack_series(packed[segment.rank, segment.first_seq, key], len(steps))
        by_summary = np.split(columns, len(SUMMARIES), axis=1)
        rollups.append((steps, by_summary[SUMMARIES.index(summary)]))
    return rollups


def _holds(layouts: Mapping[str, Layout], segment: SegmentRow, key: str) -> bool:
    """Whether a segment has the series, of the length that the newest layout gives it."""
    columns = layouts[segment.layout].slices.get(key)
    return columns is not None and columns.stop - columns.start == widths(layouts, [key])[key]
