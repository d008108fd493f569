"""The use cases of incidents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession

from server import cursor as cursors
from server.alerts.divergence import is_diverging, set_diverging
from server.alerts.incidents import actions
from server.alerts.incidents.reading import complete
from server.alerts.incidents.repository import IncidentRepository
from server.alerts.incidents.rows import ListedIncident
from server.alerts.incidents.schemas import Incident, IncidentPage
from server.alerts.repository import AlertFilter
from server.database import Database
from server.outbox.outbox import Outbox
from server.runs.repository import RunRepository


async def list_incidents(
    database: Database, filters: AlertFilter, *, cursor: str | None, limit: int
) -> IncidentPage:
    """One page of incidents, newest first."""
    async with database.reading() as session:
        rows = await IncidentRepository(session).page(
            filters, before=cursors.decode(cursor), limit=limit + 1
        )
        shown = rows[:limit]
        incidents = await complete(session, shown)
    more = len(rows) > limit
    return IncidentPage(
        incidents=incidents,
        next_cursor=cursors.encode(shown[-1].opened_at, shown[-1].id) if more else None,
    )


class IncidentChanges:
    """Changes that people make, each in a transaction of its own.

    Every method answers the incident as it then is, and raises `NotFound` where there is no such
    incident in the project.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        *,
        project: str | None,
        now: float,
        lost_contact_s: float,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._project = project
        self._now = now
        self._lost_contact_s = lost_contact_s

    async def acknowledge(self, incident_id: str) -> Incident:
        """Webhooks are told no more of it until it is resolved."""
        async with self._changing(incident_id) as (session, row):
            await actions.acknowledge(session, row, self._now)
            return await actions.changed(session, incident_id)

    async def resolve(self, incident_id: str) -> Incident:
        """End it, with its alerts."""
        async with self._changing(incident_id) as (session, row):
            await actions.resolve(session, row, self._outbox, self._now)
            await self._set_status(session, row)
            incident = await actions.changed(session, incident_id)
        self._outbox.wake()
        return incident

    async def reopen(self, incident_id: str) -> Incident:
        """Undo `acknowledge` or `resolve`."""
        async with self._changing(incident_id) as (session, row):
            await actions.reopen(session, row, self._now)
            await self._set_status(session, row)
            return await actions.changed(session, incident_id)

    async def note(self, incident_id: str, text: str) -> Incident:
        """Keep a note."""
        async with self._changing(incident_id) as (session, row):
            await actions.note(session, row, text, self._now)
            return await actions.changed(session, incident_id)

    async def _set_status(self, session: AsyncSession, row: ListedIncident) -> None:
        """A run whose alerts of divergence were resolved is no longer diverging."""
        run = await RunRepository(session).get(row.run_id)
        if run is not None:
            await set_diverging(
                session,
                run,
                await is_diverging(session, run.id),
                silent_s=self._now - run.last_seen,
                lost_contact_s=self._lost_contact_s,
            )

    @asynccontextmanager
    async def _changing(
        self, incident_id: str
    ) -> AsyncIterator[tuple[AsyncSession, ListedIncident]]:
        async with self._database.writing() as session:
            yield session, await actions.locked(session, incident_id, self._project)


async def get_incident(database: Database, incident_id: str, *, project: str | None) -> Incident:
    """One incident.

    Raises:
        NotFound: if there is no such incident in the project.
    """
    async with database.reading() as session:
        await actions.stored(session, incident_id, project)
        return await actions.changed(session, incident_id)
