"""SQL over measurements: frames not yet compacted, segments, and the series of segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, LargeBinary, Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import fetch_all
from server.runs.rewinds import Rewind, rewinds_of
from server.storage.rows import FrameSlices, ScalarRow, SegmentRow
from server.storage.step_scalars import RankScalars, current_scalars, current_steps
from server.tables import blocks, chunks, frames, marks, step_scalars
from wire import Layout

IDENTITY = (frames.c.rank, frames.c.seq, frames.c.step, frames.c.time)


class MeasurementRepository:
    """Reads of one run's measurements."""

    def __init__(self, session: AsyncSession, run_id: str) -> None:
        self._session = session
        self._run_id = run_id
        self._rewinds: list[tuple[int, Rewind]] | None = None

    async def rewinds(self) -> list[tuple[int, Rewind]]:
        """(rank, rewind) wherever the run was resumed from an earlier step; mostly none."""
        if self._rewinds is None:
            query = select(marks.c.rank, marks.c.rewinds).where(marks.c.run_id == self._run_id)
            rows = (await self._session.execute(query)).all()
            self._rewinds = [
                (rank, rewind) for rank, column in rows for rewind in rewinds_of(column)
            ]
        return self._rewinds

    async def frame_steps(self, after: int, last: int) -> list[int]:
        """Steps of frames that are not in a segment, each once, ascending."""
        query = select(frames.c.step).distinct().where(*await self._frames_in(after + 1, last))
        return list((await self._session.execute(query.order_by(frames.c.step))).scalars())

    async def segments_in(self, first: int, last: int) -> list[SegmentRow]:
        """Segments that may hold steps of this range, in the order they were written."""
        query = (
            (await self._segments())
            .where(blocks.c.last_step >= first, blocks.c.first_step <= last)
            .order_by(blocks.c.rank, blocks.c.first_seq)
        )
        return await fetch_all(self._session, query, SegmentRow)

    async def newest_frame_step(self, last: int) -> int | None:
        """The highest step up to `last` among frames that are not in a segment."""
        query = select(func.max(frames.c.step)).where(*await self._frames_in(0, last))
        newest: int | None = (await self._session.execute(query)).scalar()
        return newest

    async def newest_frame_steps(self, last: int, count: int) -> list[int]:
        """The highest `count` steps up to `last` among frames that are not in a segment."""
        query = select(frames.c.step).distinct().where(*await self._frames_in(0, last))
        query = query.order_by(frames.c.step.desc()).limit(count)
        return list((await self._session.execute(query)).scalars())

    async def newest_segments(self, last: int, limit: int = 8) -> list[SegmentRow]:
        """The latest segments that begin at or before a step.

        Several, since a segment's frames up to that step may all be superseded.
        """
        query = (
            (await self._segments())
            .where(blocks.c.first_step <= last)
            .order_by(blocks.c.last_step.desc())
            .limit(limit)
        )
        return await fetch_all(self._session, query, SegmentRow)

    async def scalars_in(self, first: int, last: int) -> list[RankScalars]:
        """Scalars of steps that were not sampled, from rows that may hold steps of this range."""
        rewinds = await self.rewinds()
        return [current_scalars(row, rewinds) for row in await self._scalar_rows(first, last)]

    async def scalar_steps(self, first: int, last: int) -> list[NDArray[np.int64]]:
        """The steps of this range that were not sampled and have scalars."""
        rewinds = await self.rewinds()
        rows = [current_steps(row, rewinds) for row in await self._scalar_rows(first, last)]
        return [steps[(steps >= first) & (steps <= last)] for steps in rows]

    async def frames_at(self, layout: Layout, steps: Sequence[int]) -> list[FrameSlices]:
        """The frames of these steps, each with its complete vector as one slice."""
        return await self._slices(layout, steps, [frames.c["values"]])

    async def series_at(
        self, layout: Layout, keys: Sequence[str], steps: Sequence[int]
    ) -> list[FrameSlices]:
        """The frames of these steps with one slice a key: only those bytes leave the database."""
        columns = [
            func.substr(
                frames.c["values"],
                4 * layout.slices[key].start + 1,  # substr counts from 1
                4 * (layout.slices[key].stop - layout.slices[key].start),
                type_=LargeBinary,
            )
            for key in keys
        ]
        return await self._slices(layout, steps, columns)

    async def packed_series(
        self, segments: Sequence[SegmentRow], keys: Sequence[str], level: int = 0
    ) -> dict[tuple[int, int, str], bytes]:
        """Packed series of segments, by (rank, first_seq, key)."""
        if not segments or not keys:
            return {}
        first_seqs = [segment.first_seq for segment in segments]
        query = select(chunks.c.rank, chunks.c.first_seq, chunks.c.series, chunks.c.data).where(
            chunks.c.run_id == self._run_id,
            chunks.c.series.in_(keys),
            chunks.c.level == level,
            chunks.c.first_seq.between(min(first_seqs), max(first_seqs)),
        )
        rows = (await self._session.execute(query)).all()
        return {(rank, first_seq, key): data for rank, first_seq, key, data in rows}

    async def _slices(
        self, layout: Layout, steps: Sequence[int], columns: Sequence[ColumnElement[bytes]]
    ) -> list[FrameSlices]:
        query = select(*IDENTITY, *columns).where(
            frames.c.run_id == self._run_id,
            frames.c.layout == layout.hash,
            frames.c.step.in_(steps),
            *await self._frames_not_superseded(),
        )
        rows = await self._session.execute(query)
        return [
            FrameSlices(rank, seq, step, time, tuple(slices))
            for rank, seq, step, time, *slices in rows
        ]

    async def _scalar_rows(self, first: int, last: int) -> list[ScalarRow]:
        query = (
            select(step_scalars)
            .where(
                step_scalars.c.run_id == self._run_id,
                step_scalars.c.last_step >= first,
                step_scalars.c.first_step <= last,
            )
            .order_by(step_scalars.c.rank, step_scalars.c.first_seq)
        )
        return await fetch_all(self._session, query, ScalarRow)

    async def _segments(self) -> Select[Any]:
        """The run's segments, without those in which every frame is superseded."""
        not_superseded = [
            or_(
                blocks.c.rank != rank,
                blocks.c.last_seq >= rewind.seq,
                blocks.c.first_step < rewind.step,
            )
            for rank, rewind in await self.rewinds()
        ]
        return select(blocks).where(blocks.c.run_id == self._run_id, *not_superseded)

    async def _frames_in(self, first: int, last: int) -> list[ColumnElement[bool]]:
        of_run = [frames.c.run_id == self._run_id, frames.c.step.between(first, last)]
        return [*of_run, *await self._frames_not_superseded()]

    async def _frames_not_superseded(self) -> list[ColumnElement[bool]]:
        return [
            or_(frames.c.rank != rank, frames.c.seq >= rewind.seq, frames.c.step < rewind.step)
            for rank, rewind in await self.rewinds()
        ]
