"""The use cases of silences: until when nobody is told of something."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.incidents import actions, serializers
from server.alerts.incidents.repository import IncidentRepository
from server.alerts.incidents.rows import ListedSilence, SilenceRow
from server.alerts.incidents.schemas import Silence, SilenceList, SilenceRequest
from server.alerts.incidents.silence_repository import SilenceRepository
from server.database import Database
from server.errors import NotFound, RunNotFound
from server.runs.repository import RunRepository


async def list_silences(database: Database, *, project: str | None, now: float) -> SilenceList:
    """The silences in force that concern a project."""
    async with database.reading() as session:
        rows = await SilenceRepository(session).listed(now)
    visible = [row for row in rows if project is None or row.project in (None, project)]
    return SilenceList(silences=[_silence(row) for row in visible])


async def silence(
    database: Database, request: SilenceRequest, *, project: str | None, now: float
) -> Silence:
    """Tell nobody of what the request names, for a time; an incident's timeline says so.

    Raises:
        RunNotFound: if there is no such run in the project.
        NotFound: if there is no such incident in the project.
    """
    row = SilenceRow(
        id=uuid.uuid4().hex,
        project=project,
        run_id=request.run,
        rule=request.rule,
        note=request.note,
        created_at=now,
        until=now + request.seconds,
        tag=request.tag,
        incident=request.incident,
    )
    async with database.writing() as session:
        await _require_run(session, request.run, project)
        if request.incident is not None:
            await actions.locked(session, request.incident, project)
            text = f"until {_moment(row.until)}" + (f": {row.note}" if row.note else "")
            await IncidentRepository(session).add_change(
                request.incident, "silenced", now, text=text
            )
        repository = SilenceRepository(session)
        await repository.add(row)
        stored = next(listed for listed in await repository.listed(now) if listed.id == row.id)
    return _silence(stored)


async def end_silence(
    database: Database, silence_id: str, *, project: str | None, now: float
) -> None:
    """End a silence before its time; a moment later channels are told what still holds.

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
        if row.incident is not None:
            await IncidentRepository(session).add_change(row.incident, "unsilenced", now)


async def _require_run(session: AsyncSession, run_id: str | None, project: str | None) -> None:
    if run_id is None:
        return
    run = await RunRepository(session).get(run_id)
    if run is None or project not in (None, run.project):
        raise RunNotFound(run_id)


def _silence(row: ListedSilence) -> Silence:
    return serializers.silence(row, row.run_name, row.incident_title)


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
