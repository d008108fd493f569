"""SQL of diagnosis: what is committed and not yet judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import fetch_all
from server.runs.rows import RankRow
from server.storage.rows import FrameRow, ScalarRow
from server.storage.step_scalars import StepScalars, scalars_of_row
from server.tables import frames, marks, predictions, step_scalars

RUNS_A_LOOK = 4096


def behind_query(free: ColumnElement[bool]) -> Select[Any]:
    """Runs with durable frames that are not judged, of those that fulfil `free`."""
    waiting = (marks.c.diagnosed < marks.c.durable, free)
    return select(marks.c.run_id).distinct().where(*waiting).limit(RUNS_A_LOOK)


class DiagnosisRepository:
    """Frames between two watermarks: judged, and durable."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def behind(
        self, free: ColumnElement[bool], among: Sequence[str] | None = None
    ) -> list[str]:
        """Runs with durable frames that are not judged, of those that fulfil `free`.

        The index `marks_unjudged` holds these ranks alone. `among` names the only ones to look at.
        """
        query = behind_query(free)
        if among is not None:
            query = query.where(marks.c.run_id.in_(among))
        return list((await self._session.execute(query)).scalars())

    async def unjudged(self, rank: RankRow, limit: int) -> list[FrameRow]:
        """Durable frames of a rank that are not judged, in the order they were made."""
        query = (
            select(frames)
            .where(
                frames.c.run_id == rank.run_id,
                frames.c.rank == rank.rank,
                frames.c.seq > rank.diagnosed,
                frames.c.seq <= rank.durable,
            )
            .order_by(frames.c.seq)
            .limit(limit)
        )
        return await fetch_all(self._session, query, FrameRow)

    async def unjudged_scalars(self, rank: RankRow, last_seq: int) -> list[StepScalars]:
        """Scalars of a rank that are not judged, up to a frame's number, ascending in `seq`."""
        query = (
            select(step_scalars)
            .where(
                step_scalars.c.run_id == rank.run_id,
                step_scalars.c.rank == rank.rank,
                step_scalars.c.last_seq > rank.diagnosed,
                step_scalars.c.first_seq <= last_seq,
            )
            .order_by(step_scalars.c.first_seq)
        )
        rows = map(scalars_of_row, await fetch_all(self._session, query, ScalarRow))
        return [
            scalars.where((scalars.seqs > rank.diagnosed) & (scalars.seqs <= last_seq))
            for scalars in rows
        ]

    async def advance(self, rank: RankRow, seq: int, *, judge: str) -> bool:
        """Note that a rank is judged up to `seq`; False if it is not where it was read."""
        change = (
            update(marks)
            .where(
                marks.c.run_id == rank.run_id,
                marks.c.rank == rank.rank,
                marks.c.diagnosed == rank.diagnosed,
            )
            .values(diagnosed=seq, judge=judge)
        )
        moved: Any = await self._session.execute(change)
        return bool(moved.rowcount == 1)

    async def revision_states(self, run_id: str) -> tuple[tuple[Any, ...], ...]:
        """(step, digest, state) of every prediction: differs whenever one of them does."""
        query = select(predictions.c.step, predictions.c.digest, predictions.c.state).where(
            predictions.c.run_id == run_id
        )
        rows = (await self._session.execute(query.order_by(predictions.c.step))).all()
        return tuple(tuple(row) for row in rows)
