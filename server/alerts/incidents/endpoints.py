"""``/incidents`` and ``/silences``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import HTTPConnection

from server.access.dependencies import Reader, holding
from server.access.principal import Principal
from server.alerts.events import publish_alerts
from server.alerts.incidents import service, silences
from server.alerts.incidents.schemas import (
    Incident,
    IncidentPage,
    NoteChange,
    Silence,
    SilenceList,
    SilenceRequest,
)
from server.alerts.incidents.service import IncidentChanges
from server.alerts.repository import AlertFilter
from server.alerts.rows import AlertStatus
from server.app_state import State

router = APIRouter(tags=["incidents"])

ID = "^[0-9a-f]{32}$"
IncidentId = Annotated[str, Path(pattern=ID, description="32 hexadecimal digits")]
SilenceId = Annotated[str, Path(pattern=ID, description="32 hexadecimal digits")]
Editor = Annotated[Principal, Depends(holding("admin"))]


def changes_of(connection: HTTPConnection, caller: Editor, state: State) -> IncidentChanges:
    """What this caller may change, at this moment."""
    outbox = connection.app.state.outbox
    return IncidentChanges(
        state.database,
        outbox,
        project=caller.project,
        now=state.clock(),
        lost_contact_s=state.settings.lost_contact_s,
    )


Changes = Annotated[IncidentChanges, Depends(changes_of)]


@router.get("/incidents")
async def list_incidents(
    caller: Reader,
    state: State,
    *,
    run: Annotated[str | None, Query(pattern=ID)] = None,
    status: AlertStatus | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> IncidentPage:
    """Incidents with their alerts and timelines, newest first."""
    filters = AlertFilter(run, status, caller.project)
    return await service.list_incidents(state.database, filters, cursor=cursor, limit=limit)


@router.get("/incidents/{incident_id}")
async def get_incident(incident_id: IncidentId, caller: Reader, state: State) -> Incident:
    """One incident."""
    return await service.get_incident(state.database, incident_id, project=caller.project)


@router.post("/incidents/{incident_id}/acknowledge")
async def acknowledge_incident(incident_id: IncidentId, changes: Changes, state: State) -> Incident:
    """Mark an incident and its alerts as acknowledged; `reopen` undoes it."""
    return await _published(state, await changes.acknowledge(incident_id))


@router.post("/incidents/{incident_id}/resolve")
async def resolve_incident(incident_id: IncidentId, changes: Changes, state: State) -> Incident:
    """Resolve an incident and its alerts; `reopen` undoes it."""
    return await _published(state, await changes.resolve(incident_id))


@router.post("/incidents/{incident_id}/reopen")
async def reopen_incident(incident_id: IncidentId, changes: Changes, state: State) -> Incident:
    """Open an incident again that was acknowledged or resolved."""
    return await _published(state, await changes.reopen(incident_id))


@router.put("/incidents/{incident_id}/note")
async def note_incident(
    incident_id: IncidentId, change: NoteChange, changes: Changes, state: State
) -> Incident:
    """Keep a note with an incident; its timeline keeps the former ones."""
    return await _published(state, await changes.note(incident_id, change.note))


async def _published(state: State, incident: Incident) -> Incident:
    await publish_alerts(state.bus, incident.alerts)
    return incident


@router.get("/silences")
async def list_silences(caller: Reader, state: State) -> SilenceList:
    """Silences in force."""
    now = state.clock()
    return await silences.list_silences(state.database, project=caller.project, now=now)


@router.post("/silences", status_code=201)
async def silence(request: SilenceRequest, caller: Editor, state: State) -> Silence:
    """Tell nobody of a run, a rule, a tag or an incident, for a time."""
    now = state.clock()
    answer = await silences.silence(state.database, request, project=caller.project, now=now)
    if answer.incident is not None:  # its timeline says so, on pages that are open
        incident = await service.get_incident(
            state.database, answer.incident, project=caller.project
        )
        await publish_alerts(state.bus, incident.alerts)
    return answer


@router.delete("/silences/{silence_id}", status_code=204)
async def end_silence(silence_id: SilenceId, caller: Editor, state: State) -> None:
    """End a silence before its time."""
    now = state.clock()
    await silences.end_silence(state.database, silence_id, project=caller.project, now=now)
