"""SQL over model specs and their predictions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Table, and_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import fetch_all, fetch_first, insert
from server.predictions.rows import PredictionHead, PredictionRow, RevisionRow
from server.tables import predictions, revisions


class PredictionRepository:
    """Spec revisions and predictions, one of each for a (run, step)."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def digest(self, run_id: str, step: int) -> str | None:
        """The digest of the spec stored for this step, or None."""
        query = select(revisions.c.digest).where(_at(revisions, run_id, step))
        return (await self._session.execute(query)).scalar()

    async def has_digest(self, run_id: str, digest: str) -> bool:
        """Whether this very spec is stored for any step."""
        query = select(revisions.c.step).where(
            revisions.c.run_id == run_id, revisions.c.digest == digest
        )
        return (await self._session.execute(query)).first() is not None

    async def put(self, run_id: str, step: int, digest: str, spec: bytes, now: float) -> None:
        """Store a spec and a pending prediction for it, in place of what was there."""
        revision = {"digest": digest, "spec": spec, "received_at": now}
        pending = {"digest": digest, "state": "pending", "reason": "", "prediction": None}
        for table, values in ((revisions, revision), (predictions, pending)):
            statement = insert(self._session, table).values(run_id=run_id, step=step, **values)
            await self._session.execute(
                statement.on_conflict_do_update(index_elements=["run_id", "step"], set_=values)
            )

    async def pending(self, limit: int) -> list[RevisionRow]:
        """Specs whose prediction is not computed, in the order they came."""
        same = and_(
            revisions.c.run_id == predictions.c.run_id, revisions.c.step == predictions.c.step
        )
        query = (
            select(revisions)
            .join(predictions, same)
            .where(predictions.c.state == "pending")
            .order_by(revisions.c.received_at, revisions.c.step)
            .limit(limit)
        )
        return await fetch_all(self._session, query, RevisionRow)

    async def settle(self, run_id: str, step: int, digest: str, **values: Any) -> None:
        """Store a result, unless the spec was replaced while it was computed."""
        # By digest: computing takes seconds, during which the agent may describe the model anew.
        change = update(predictions).where(
            _at(predictions, run_id, step), predictions.c.digest == digest
        )
        await self._session.execute(change.values(**values))

    async def of_run(self, run_id: str) -> list[PredictionRow]:
        """Every prediction of a run, ascending by step."""
        query = (
            select(predictions).where(predictions.c.run_id == run_id).order_by(predictions.c.step)
        )
        return await fetch_all(self._session, query, PredictionRow)

    async def first(self, run_id: str) -> PredictionRow | None:
        """The prediction at initialisation, that of the lowest step."""
        query = (
            select(predictions)
            .where(predictions.c.run_id == run_id)
            .order_by(predictions.c.step)
            .limit(1)
        )
        return await fetch_first(self._session, query, PredictionRow)

    async def first_head(self, run_id: str) -> PredictionHead | None:
        """What identifies the prediction at initialisation, without its curves."""
        query = (
            select(predictions.c.step, predictions.c.digest, predictions.c.state)
            .where(predictions.c.run_id == run_id)
            .order_by(predictions.c.step)
            .limit(1)
        )
        return await fetch_first(self._session, query, PredictionHead)

    async def at(self, run_id: str, step: int) -> PredictionRow | None:
        """The prediction that held at a step: of the last revision up to it, else the first."""
        query = (
            select(predictions)
            .where(predictions.c.run_id == run_id, predictions.c.step <= step)
            .order_by(predictions.c.step.desc())
            .limit(1)
        )
        row = await fetch_first(self._session, query, PredictionRow)
        return await self.first(run_id) if row is None else row

    async def spec(self, run_id: str, step: int) -> bytes | None:
        """The packed spec of a step."""
        query = select(revisions.c.spec).where(_at(revisions, run_id, step))
        return (await self._session.execute(query)).scalar()


def _at(table: Table, run_id: str, step: int) -> ColumnElement[bool]:
    return and_(table.c.run_id == run_id, table.c.step == step)
