"""SQL over `silences`."""

from __future__ import annotations

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.incidents.rows import SilenceRow
from server.database import fetch_all, fetch_first
from server.tables import silences


class SilenceRepository:
    """Silences: those in force, and those that have ended and are not yet deleted."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def in_force(self, now: float) -> list[SilenceRow]:
        """The silences of this moment, the first to end first."""
        query = select(silences).where(silences.c.until > now)
        return await fetch_all(self._session, query.order_by(silences.c.until), SilenceRow)

    async def get(self, silence_id: str) -> SilenceRow | None:
        """The silence, or None."""
        query = select(silences).where(silences.c.id == silence_id)
        return await fetch_first(self._session, query, SilenceRow)

    async def add(self, silence: SilenceRow) -> None:
        """Store a new silence, and delete those that have ended."""
        await self._session.execute(delete(silences).where(silences.c.until <= silence.created_at))
        await self._session.execute(silences.insert().values(**msgspec.structs.asdict(silence)))

    async def remove(self, silence_id: str) -> None:
        """Delete a silence."""
        await self._session.execute(delete(silences).where(silences.c.id == silence_id))
