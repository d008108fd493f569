"""SQL of the way in: frames, scalars and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import fetch_first, insert
from server.runs.rows import RankRow
from server.storage.codec import unpack
from server.storage.rows import FrameRow, ScalarRow
from server.tables import frames, marks, step_scalars


class FrameRepository:
    """Frames not yet in segments, and the ack watermarks."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def ack_watermark(self, run_id: str, rank: int) -> int:
        """The ack watermark of a rank; 0 before its first batch."""
        query = select(marks.c.durable).where(marks.c.run_id == run_id, marks.c.rank == rank)
        return (await self._session.execute(query)).scalar() or 0

    async def ack_watermarks(self, run_id: str) -> dict[str, int]:
        """The ack watermark of every rank, by its decimal string."""
        query = select(marks.c.rank, marks.c.durable).where(marks.c.run_id == run_id)
        return {str(rank): durable for rank, durable in (await self._session.execute(query)).all()}

    async def ensure_rank(self, run_id: str, rank: int) -> RankRow:
        """The rank's row of `marks`, added if there is none; the caller holds the run's lock."""
        new = RankRow(
            run_id=run_id, rank=rank, durable=0, oldest=0, diagnosed=0, packed=0,
            top_seq=0, top_step=-1, rewinds=[], health={}, last_seen=0.0,
        )  # fmt: skip
        # Added first and read then: of two first batches, both find the one row.
        statement = insert(self._session, marks).values(**msgspec.structs.asdict(new))
        await self._session.execute(statement.on_conflict_do_nothing())
        query = select(marks).where(marks.c.run_id == run_id, marks.c.rank == rank)
        return RankRow(*(await self._session.execute(query)).one())

    async def change_rank(self, run_id: str, rank: int, **values: Any) -> None:
        """Set columns of a rank's row of `marks`."""
        at = (marks.c.run_id == run_id, marks.c.rank == rank)
        await self._session.execute(update(marks).where(*at).values(**values))

    async def seqs_above(self, run_id: str, rank: int, watermark: int) -> set[int]:
        """The frames above a watermark that are stored: normally none."""
        query = select(frames.c.seq).where(
            frames.c.run_id == run_id, frames.c.rank == rank, frames.c.seq > watermark
        )
        seqs = set((await self._session.execute(query)).scalars())
        of_rank = (step_scalars.c.run_id == run_id, step_scalars.c.rank == rank)
        rows = select(step_scalars.c.seqs).where(*of_rank, step_scalars.c.last_seq > watermark)
        for packed in (await self._session.execute(rows)).scalars():
            seqs.update(seq for seq in unpack(packed, "<i8").tolist() if seq > watermark)
        return seqs

    async def add(self, rows: Sequence[FrameRow]) -> None:
        """Store frames that are not there yet."""
        if rows:
            await self._session.execute(frames.insert(), [msgspec.structs.asdict(r) for r in rows])

    async def newest_scalars(self, run_id: str, rank: int) -> ScalarRow | None:
        """The row that the rank's next scalars are appended to."""
        query = select(step_scalars).where(
            step_scalars.c.run_id == run_id, step_scalars.c.rank == rank
        )
        newest = query.order_by(step_scalars.c.first_seq.desc()).limit(1)
        return await fetch_first(self._session, newest, ScalarRow)

    async def put_scalars(self, rows: Sequence[ScalarRow]) -> None:
        """Store rows of scalars, each in place of the one that it continues."""
        for row in rows:
            columns = msgspec.structs.asdict(row)
            statement = insert(self._session, step_scalars).values(**columns)
            await self._session.execute(
                statement.on_conflict_do_update(
                    index_elements=["run_id", "rank", "first_seq"], set_=columns
                )
            )

    async def lowest_rank(self, run_id: str) -> int:
        """The rank that speaks for the run."""
        query = select(func.min(marks.c.rank)).where(marks.c.run_id == run_id)
        return (await self._session.execute(query)).scalar() or 0
