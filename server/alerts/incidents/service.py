"""The use cases of incidents and silences."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession

from server import cursor as cursors
from server.alerts.divergence import is_diverging, set_diverging
from server.alerts.incidents import actions, serializers
from server.alerts.incidents.reading import complete
from server.alerts.incidents.repository import IncidentRepository
from server.alerts.incidents.rows import ListedIncident, SilenceRow
from server.alerts.incidents.schemas import (
    Incident,
    IncidentPage,
    Silence,
    SilenceList,
    SilenceRequest,
)
from server.alerts.incidents.silence_repository import SilenceRepository
from server.alerts.repository import AlertFilter
from server.database import Database
from server.errors import NotFound, RunNotFound
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


async def list_silences(database: Database, *, project: str | None, now: float) -> SilenceList:
    """The silences in force that concern a project."""
    async with database.reading() as session:
        rows = await SilenceRepository(session).in_force(now)
    visible = [row for row in rows if project is None or row.project in (None, project)]
    return SilenceList(silences=[serializers.silence(row) for row in visible])


async def silence(
    database: Database, request: SilenceRequest, *, project: str | None, now: float
) -> Silence:
    """Tell webhooks nothing of a run, a rule, or both, for a time.

    Raises:
        RunNotFound: if there is no such run in the project.
    """
    row = SilenceRow(
        id=uuid.uuid4().hex,
        project=project,
        run_id=request.run,
        rule=request.rule,
        note=request.note,
        created_at=now,
        until=now + request.seconds,
    )
    async with database.writing() as session:
        if request.run is not None:
            run = await RunRepository(session).get(request.run)
            if run is None or project not in (None, run.project):
                raise RunNotFound(request.run)
        await SilenceRepository(session).add(row)
    return serializers.silence(row)


async def end_silence(
    database: Database, silence_id: str, *, project: str | None, now: float
) -> None:
    """End a silence before its time; a moment later webhooks are told what still holds.

    Raises:
        NotFound: if there is no such silence of the project.
    """
    async with database.writing() as session:
        repository = SilenceRepository(session)
        row = await repository.get(silence_id)
        if row is None or row.until <= now or project not in (None, row.project):
            raise NotFound(
                f"there is no silence {silence_id!r}",
                field="silence_id",
                fix="list silences with GET /api/v1/silences",
            )
        await repository.end(silence_id, now)
