"""SQL of the way in: frames and marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import insert
from server.tables import frames, marks


class FrameRepository:
    """Frames not yet in blocks, and the durable marks."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def mark(self, run_id: str, rank: int) -> int:
        """The durable mark of a rank; 0 before its first batch."""
        query = select(marks.c.durable).where(marks.c.run_id == run_id, marks.c.rank == rank)
        return (await self._session.execute(query)).scalar() or 0

    async def marks(self, run_id: str) -> dict[str, int]:
        """The durable marks of every rank, by its decimal string."""
        query = select(marks.c.rank, marks.c.durable).where(marks.c.run_id == run_id)
        return {str(rank): mark for rank, mark in (await self._session.execute(query)).all()}

    async def held_mark(self, run_id: str, rank: int) -> RowMapping:
        """The rank's row of marks, made if there is none; the run's lock guards it."""
        numbers = dict.fromkeys(("durable", "oldest", "diagnosed", "packed"), 0)
        fresh = {**numbers, "health": {}, "last_seen": 0.0}
        fresh |= {"top_seq": 0, "top_step": -1, "rewinds": []}
        statement = insert(self._session, marks).values(run_id=run_id, rank=rank, **fresh)
        await self._session.execute(statement.on_conflict_do_nothing())
        query = select(marks).where(marks.c.run_id == run_id, marks.c.rank == rank)
        return (await self._session.execute(query)).mappings().one()

    async def set_mark(self, run_id: str, rank: int, **values: Any) -> None:
        """Change a rank's row of marks."""
        at = (marks.c.run_id == run_id, marks.c.rank == rank)
        await self._session.execute(update(marks).where(*at).values(**values))

    async def seqs_above(self, run_id: str, rank: int, mark: int) -> set[int]:
        """The frames above a mark that are stored: normally none."""
        query = select(frames.c.seq).where(
            frames.c.run_id == run_id, frames.c.rank == rank, frames.c.seq > mark
        )
        return set((await self._session.execute(query)).scalars())

    async def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Store frames that are not there yet."""
        if rows:
            await self._session.execute(frames.insert(), rows)

    async def lowest_rank(self, run_id: str) -> int:
        """The rank that speaks for the run on live pages."""
        query = select(func.min(marks.c.rank)).where(marks.c.run_id == run_id)
        return (await self._session.execute(query)).scalar() or 0
