"""SQL over `silences`."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.incidents.rows import ListedSilence, SilenceRow
from server.database import fetch_all, fetch_first
from server.tables import alerts, incidents, runs, silences


class SilenceRepository:
    """Silences: those in force, and those that have ended and are not yet deleted."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def in_force(self, now: float) -> list[SilenceRow]:
        """The silences of this moment, the first to end first."""
        query = select(silences).where(silences.c.until > now)
        return await fetch_all(self._session, query.order_by(silences.c.until), SilenceRow)

    async def listed(self, now: float) -> list[ListedSilence]:
        """The silences of this moment with what they are about, the first to end first."""
        run_id = func.coalesce(silences.c.run_id, incidents.c.run_id)
        query = (
            select(silences, runs.c.name, alerts.c.title)
            .outerjoin(incidents, incidents.c.id == silences.c.incident)
            .outerjoin(alerts, alerts.c.id == incidents.c.root)
            .outerjoin(runs, runs.c.id == run_id)
            .where(silences.c.until > now)
            .order_by(silences.c.until)
        )
        return await fetch_all(self._session, query, ListedSilence)

    async def get(self, silence_id: str) -> SilenceRow | None:
        """The silence, or None."""
        query = select(silences).where(silences.c.id == silence_id)
        return await fetch_first(self._session, query, SilenceRow)

    async def add(self, silence: SilenceRow) -> None:
        """Store a new silence."""
        await self._session.execute(silences.insert().values(**msgspec.structs.asdict(silence)))

    async def end(self, silence_id: str, now: float) -> None:
        """End a silence now."""
        statement = update(silences).where(silences.c.id == silence_id)
        await self._session.execute(statement.values(until=now))

    async def has_ended(self, now: float) -> bool:
        """Whether a silence has ended that is not deleted yet."""
        query = select(silences.c.id).where(silences.c.until <= now).limit(1)
        return (await self._session.execute(query)).first() is not None

    async def remove_ended(self, now: float) -> int:
        """Delete the silences that have ended; how many there were."""
        statement = delete(silences).where(silences.c.until <= now)
        result: CursorResult[Any] = await self._session.execute(statement)  # type: ignore[assignment]
        return result.rowcount
