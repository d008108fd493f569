"""Which server process judges which run: one at a time, as long as it lives.

What the rules remember of a run is in that process's memory: two that took turns would each know
half of the run.
"""

from __future__ import annotations

import uuid

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.clock import Clock
from server.database import Database, insert
from server.tables import judges, marks

ALIVE_S = 6.0  # a process silent for so long has died: its runs go to others
RENEW_S = 2.0


class Judges:
    """This process among those that judge; alone, with a database of its own, it needs no lease."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self.id = "" if database.is_sqlite else uuid.uuid4().hex
        self._renewed_at = float("-inf")

    async def renew(self) -> None:
        """Say that this process lives, where others might ask."""
        now = self._clock()
        if not self.id or now - self._renewed_at < RENEW_S:
            return
        async with self._database.writing() as session:
            await session.execute(delete(judges).where(judges.c.alive_until < now - 60.0))
            values = {"id": self.id, "alive_until": now + ALIVE_S}
            statement = insert(session, judges).values(**values)
            await session.execute(
                statement.on_conflict_do_update(index_elements=["id"], set_=values)
            )
        self._renewed_at = now

    async def resign(self) -> None:
        """Leave this process's runs to others at once."""
        if self.id:
            async with self._database.writing() as session:
                await session.execute(delete(judges).where(judges.c.id == self.id))

    async def living(self, session: AsyncSession) -> set[str]:
        """The other processes that live."""
        alive = select(judges.c.id).where(judges.c.alive_until > self._clock())
        return set((await session.execute(alive)).scalars()) - {self.id}

    def free(self) -> ColumnElement[bool]:
        """The condition on `marks` that no other living process judges the rank."""
        if not self.id:
            return marks.c.run_id.is_not(None)
        others = select(judges.c.id).where(
            judges.c.id != self.id, judges.c.alive_until > self._clock()
        )
        return or_(marks.c.judge == "", marks.c.judge == self.id, marks.c.judge.not_in(others))
