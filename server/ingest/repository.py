"""SQL of the way in: frames, scalars and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import fetch_first, insert
from server.ingest.ack_watermark import advance
from server.runs.rows import RankRow
from server.storage.codec import unpack
from server.storage.rows import FrameRow, ScalarRow
from server.tables import blocks, frames, marks, step_scalars
from wire import MAX_FRAMES, FrameBatch

# An agent drops what lies below its watermark: it is never told of one beyond what it has sent.
_TOLD = (marks.c.durable, marks.c.top_seq)


class FrameRepository:
    """Frames not yet in segments, and the ack watermarks."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def ack_watermark(self, run_id: str, rank: int) -> int:
        """The ack watermark of a rank; 0 before its first batch."""
        at = (marks.c.run_id == run_id, marks.c.rank == rank)
        row = (await self._session.execute(select(*_TOLD).where(*at))).first()
        return 0 if row is None else min(row)

    async def ack_watermarks(self, run_id: str) -> dict[str, int]:
        """The ack watermark of every rank, by its decimal string."""
        query = select(marks.c.rank, *_TOLD).where(marks.c.run_id == run_id)
        rows = (await self._session.execute(query)).all()
        return {str(rank): min(told) for rank, *told in rows}

    async def ensure_rank(self, run_id: str, rank: int) -> RankRow:
        """The rank's row of `marks`, added if there is none; the caller holds the run's lock."""
        new = RankRow(
            run_id=run_id, rank=rank, durable=0, oldest=0, diagnosed=0, packed=0,
            top_seq=0, top_step=-1, rewinds=[], health={}, last_seen=0.0,
        )  # fmt: skip
        query = select(marks).where(marks.c.run_id == run_id, marks.c.rank == rank)
        row = await fetch_first(self._session, query, RankRow)
        if row is not None:
            return row
        statement = insert(self._session, marks).values(**msgspec.structs.asdict(new))
        await self._session.execute(statement.on_conflict_do_nothing())
        return RankRow(*(await self._session.execute(query)).one())

    async def change_rank(self, run_id: str, rank: int, **values: Any) -> None:
        """Set columns of a rank's row of `marks`."""
        at = (marks.c.run_id == run_id, marks.c.rank == rank)
        await self._session.execute(update(marks).where(*at).values(**values))

    async def stored_among(
        self, run_id: str, rank: int, watermark: int, seqs: Sequence[int]
    ) -> set[int]:
        """Which of these frames are stored, together with all that are above the watermark.

        The watermark alone does not tell: below it lies also what another process of the rank
        holds in its spool, or was given up.
        """
        stored = await self.seqs_above(run_id, rank, watermark)
        below = [seq for seq in seqs if seq <= watermark]
        if below:
            stored |= await self._stored_between(run_id, rank, min(below), max(below))
        return stored

    async def watermark_of(
        self, run_id: str, rank: int, batch: FrameBatch, *, has_had_others: bool
    ) -> int:
        """The ack watermark as the sender of a batch may read it.

        Where other processes have sent as the rank, frames that wait in this one's spool may lie
        below the rank's watermark: its own is the last frame up to which its spool, of which the
        batch names the oldest one, is stored without a gap.
        """
        watermark = await self.ack_watermark(run_id, rank)
        if not has_had_others or batch.oldest > watermark:
            return watermark
        newest = batch.frames[-1].seq if batch.frames else batch.oldest
        last = min(watermark, newest + MAX_FRAMES)
        stored = await self._stored_between(run_id, rank, batch.oldest, last)
        within = [seq for seq in stored if batch.oldest <= seq <= last]
        return advance(batch.oldest - 1, oldest=batch.oldest, stored=within)

    async def contents(
        self, run_id: str, rank: int, seqs: Sequence[int]
    ) -> dict[int, tuple[int, bytes]]:
        """(step, values) of those of these frames that are stored and not yet in a segment."""
        query = select(frames.c.seq, frames.c.step, frames.c["values"]).where(
            frames.c.run_id == run_id, frames.c.rank == rank, frames.c.seq.in_(seqs)
        )
        rows = (await self._session.execute(query)).all()
        return {seq: (step, values) for seq, step, values in rows}

    async def _stored_between(self, run_id: str, rank: int, first: int, last: int) -> set[int]:
        query = select(frames.c.seq).where(
            frames.c.run_id == run_id, frames.c.rank == rank, frames.c.seq.between(first, last)
        )
        seqs = set((await self._session.execute(query)).scalars())
        for table in (blocks, step_scalars):
            rows = select(table.c.seqs).where(
                table.c.run_id == run_id,
                table.c.rank == rank,
                table.c.first_seq <= last,
                table.c.last_seq >= first,
            )
            for packed in (await self._session.execute(rows)).scalars():
                seqs.update(unpack(packed, "<i8").tolist())
        return seqs

    async def highest_stored(self, run_id: str, rank: int) -> int:
        """The highest number among the rank's stored frames; 0 where there are none."""
        highest = 0
        for column in (frames.c.seq, blocks.c.last_seq, step_scalars.c.last_seq):
            table = column.table
            query = select(func.max(column)).where(table.c.run_id == run_id, table.c.rank == rank)
            highest = max(highest, (await self._session.execute(query)).scalar() or 0)
        return highest

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
