"""SQL of diagnosis: what is committed and not yet judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.tables import frames, marks, predictions


class DiagnosisRepository:
    """Frames between two marks: judged, and durable."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def behind(self, limit: int = 256) -> list[str]:
        """Runs with durable frames that are not judged."""
        query = (
            select(marks.c.run_id)
            .distinct()
            .where(marks.c.diagnosed < marks.c.durable)
            .limit(limit)
        )
        return list((await self._session.execute(query)).scalars())

    async def unjudged(self, mark: RowMapping, limit: int) -> Sequence[RowMapping]:
        """Durable frames of a rank that are not judged, in the order they were made."""
        query = (
            select(frames)
            .where(
                frames.c.run_id == mark["run_id"],
                frames.c.rank == mark["rank"],
                frames.c.seq > mark["diagnosed"],
                frames.c.seq <= mark["durable"],
            )
            .order_by(frames.c.seq)
            .limit(limit)
        )
        return (await self._session.execute(query)).mappings().all()

    async def judged(self, mark: RowMapping, seq: int) -> None:
        """Everything of this rank up to `seq` is judged."""
        at = (marks.c.run_id == mark["run_id"], marks.c.rank == mark["rank"])
        await self._session.execute(update(marks).where(*at).values(diagnosed=seq))

    async def revision_states(self, run_id: str) -> tuple[Any, ...]:
        """What changes whenever a prediction of the run does."""
        query = select(predictions.c.step, predictions.c.digest, predictions.c.state).where(
            predictions.c.run_id == run_id
        )
        rows = (await self._session.execute(query.order_by(predictions.c.step))).all()
        return tuple(tuple(row) for row in rows)
