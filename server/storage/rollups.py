"""Long runs at a glance: least, mean or greatest of every few frames, not every so-manieth frame.

Blocks hold these cells ready, so a long history costs a sixteenth of its frames to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import Row
from server.storage.codec import unpack, unpack_series
from server.storage.downsample import Steps
from server.storage.measurements import ANY_STEP, kept, read, widths
from server.storage.repository import MeasurementRepository
from server.storage.segments import ROLLUP, SUMMARIES, rolled_up
from wire import Layout

Cells = tuple[Steps, NDArray[np.float32]]


async def read_rollups(
    session: AsyncSession, run_id: str, layouts: Mapping[str, Layout], *, key: str, summary: str
) -> Cells:
    """The first step of each cell, ascending, and the series there, (cells, n).

    Of several ranks, the lowest that has blocks speaks.
    """
    repository = MeasurementRepository(session, run_id)
    blocks = [one for one in await repository.blocks_in(0, ANY_STEP) if _holds(layouts, one, key)]
    speaking = [one for one in blocks if one["rank"] == blocks[0]["rank"]]
    whole, fresh_steps = await _sorted_out(repository, speaking)
    fresh = await read(session, run_id, layouts, fresh_steps, [key])
    found = await _from_blocks(repository, whole, key, summary)
    if len(fresh_steps):
        found.append((fresh_steps[::ROLLUP], rolled_up(fresh.series[key])[summary]))
    if not found:
        return np.empty(0, np.int64), np.empty((0, fresh.series[key].shape[1]), np.float32)
    steps = np.concatenate([steps for steps, _ in found])
    order = np.argsort(steps, kind="stable")
    return steps[order], np.concatenate([values for _, values in found])[order]


async def _sorted_out(
    repository: MeasurementRepository, speaking: Sequence[Row]
) -> tuple[list[Row], Steps]:
    """Blocks whose cells hold, and the steps of the few frames that are rolled_up anew.

    Those are not in a block yet, or in one that a resumed run has superseded in part.
    """
    whole: list[Row] = []
    steps = [np.array(await repository.frame_steps(-1, ANY_STEP), dtype=np.int64)]
    for block in speaking:
        rows = kept(block, await repository.gone_back())
        if rows.all():
            whole.append(block)
        else:
            steps.append(unpack(block["steps"], "<i8")[rows])
    return whole, np.unique(np.concatenate(steps))


async def _from_blocks(
    repository: MeasurementRepository, blocks: Sequence[Row], key: str, summary: str
) -> list[Cells]:
    data = await repository.chunks_of(blocks, [key], level=ROLLUP)
    cells = []
    for block in blocks:
        steps = unpack(block["steps"], "<i8")[::ROLLUP]
        packed = data[block["rank"], block["first_seq"], key]
        parts = np.split(unpack_series(packed, len(steps)), len(SUMMARIES), axis=1)
        cells.append((steps, parts[SUMMARIES.index(summary)]))
    return cells


def _holds(layouts: Mapping[str, Layout], block: Mapping[Any, Any], key: str) -> bool:
    """Whether a block has the series, of the length that the newest layout gives it."""
    where = layouts[block["layout"]].slices.get(key)
    return where is not None and where.stop - where.start == widths(layouts, [key])[key]
