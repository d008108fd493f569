"""SQL over measurements: frames not yet packed, blocks, and the chunks of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import LargeBinary, RowMapping, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import Row
from server.runs.rewinds import Rewind, rewinds_of
from server.tables import blocks, chunks, frames, marks
from wire import Layout

IDENTITY = (frames.c.rank, frames.c.seq, frames.c.step, frames.c.time, frames.c.layout)


class MeasurementRepository:
    """Reads of one run's measurements."""

    def __init__(self, session: AsyncSession, run_id: str) -> None:
        self._session = session
        self._run_id = run_id
        self._gone_back: list[tuple[int, Rewind]] | None = None

    async def gone_back(self) -> list[tuple[int, Rewind]]:
        """(rank, rewind) wherever the run was resumed from an earlier step; mostly none."""
        if self._gone_back is None:
            query = select(marks.c.rank, marks.c.rewinds).where(marks.c.run_id == self._run_id)
            rows = (await self._session.execute(query)).mappings()
            self._gone_back = [(row["rank"], one) for row in rows for one in rewinds_of(row)]
        return self._gone_back

    async def frame_steps(self, after: int, last: int) -> list[int]:
        """Steps of frames that are not in a block, each once, ascending."""
        query = select(frames.c.step).distinct().where(*await self._frames_in(after + 1, last))
        return list((await self._session.execute(query.order_by(frames.c.step))).scalars())

    async def blocks_in(self, first: int, last: int) -> Sequence[RowMapping]:
        """Blocks that may hold steps of this range, in the order they were written."""
        query = (
            select(blocks)
            .where(
                blocks.c.run_id == self._run_id,
                blocks.c.last_step >= first,
                blocks.c.first_step <= last,
                *await self._blocks_not_superseded(),
            )
            .order_by(blocks.c.rank, blocks.c.first_seq)
        )
        return (await self._session.execute(query)).mappings().all()

    async def newest_frame_step(self, last: int) -> int | None:
        """The highest step up to `last` among frames that are not in a block."""
        query = select(func.max(frames.c.step)).where(*await self._frames_in(0, last))
        newest: int | None = (await self._session.execute(query)).scalar()
        return newest

    async def newest_blocks(self, last: int, limit: int = 8) -> Sequence[RowMapping]:
        """The latest blocks that begin at or before a step."""
        query = (
            select(blocks)
            .where(
                blocks.c.run_id == self._run_id,
                blocks.c.first_step <= last,
                *await self._blocks_not_superseded(),
            )
            .order_by(blocks.c.last_step.desc())
            .limit(limit)
        )
        return (await self._session.execute(query)).mappings().all()

    async def whole_frames(self, layout: Layout, steps: Sequence[int]) -> Sequence[Any]:
        """(rank, seq, step, time, layout, values) of these steps."""
        query = select(*IDENTITY, frames.c["values"]).where(*await self._frames_at(layout, steps))
        return (await self._session.execute(query)).all()

    async def frame_parts(
        self, layout: Layout, keys: Sequence[str], steps: Sequence[int]
    ) -> Sequence[Any]:
        """(rank, seq, step, time, layout, one column for each key): only those bytes are read."""
        parts = [
            func.substr(
                frames.c["values"],
                4 * layout.slices[key].start + 1,
                4 * (layout.slices[key].stop - layout.slices[key].start),
                type_=LargeBinary,
            )
            for key in keys
        ]
        query = select(*IDENTITY, *parts).where(*await self._frames_at(layout, steps))
        return (await self._session.execute(query)).all()

    async def chunks_of(
        self, found: Sequence[Row], keys: Sequence[str], level: int = 0
    ) -> dict[tuple[int, int, str], bytes]:
        """Packed series of blocks, by (rank, first_seq, key)."""
        if not found or not keys:
            return {}
        query = select(chunks.c.rank, chunks.c.first_seq, chunks.c.series, chunks.c.data).where(
            chunks.c.run_id == self._run_id,
            chunks.c.series.in_(keys),
            chunks.c.level == level,
            chunks.c.first_seq >= min(one["first_seq"] for one in found),
            chunks.c.first_seq <= max(one["first_seq"] for one in found),
        )
        rows = (await self._session.execute(query)).all()
        return {(rank, first_seq, key): data for rank, first_seq, key, data in rows}

    async def _frames_in(self, first: int, last: int) -> tuple[Any, ...]:
        at = (frames.c.run_id == self._run_id, frames.c.step.between(first, last))
        return (*at, *await self._frames_not_superseded())

    async def _frames_at(self, layout: Layout, steps: Sequence[int]) -> tuple[Any, ...]:
        at = and_(frames.c.run_id == self._run_id, frames.c.layout == layout.hash)
        return (at, frames.c.step.in_(steps), *await self._frames_not_superseded())

    async def _frames_not_superseded(self) -> list[Any]:
        return [
            or_(frames.c.rank != rank, frames.c.seq >= back.seq, frames.c.step < back.step)
            for rank, back in await self.gone_back()
        ]

    async def _blocks_not_superseded(self) -> list[Any]:
        """Leave out blocks in which nothing is left; of others see `measurements.kept`."""
        return [
            or_(
                blocks.c.rank != rank,
                blocks.c.last_seq >= back.seq,
                blocks.c.first_step < back.step,
            )
            for rank, back in await self.gone_back()
        ]
