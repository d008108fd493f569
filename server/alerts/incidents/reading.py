"""Read incidents with their alerts and timelines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.incidents import serializers
from server.alerts.incidents.repository import IncidentRepository
from server.alerts.incidents.rows import ListedIncident
from server.alerts.incidents.schemas import Incident
from server.alerts.repository import AlertRepository
from server.alerts.rows import AlertRow
from server.database import Database


async def alerts_by_incident(
    session: AsyncSession, ids: Sequence[str]
) -> dict[str, list[AlertRow]]:
    """The alerts of each incident, in the order in which they opened."""
    grouped: dict[str, list[AlertRow]] = {incident_id: [] for incident_id in ids}
    for alert in await AlertRepository(session).of_incidents(ids):
        grouped[alert.incident or ""].append(alert)
    return grouped


async def complete(session: AsyncSession, rows: Sequence[ListedIncident]) -> list[Incident]:
    """The JSON form of incidents, with alerts and timelines."""
    ids = [row.id for row in rows]
    alerts = await alerts_by_incident(session, ids)
    timelines = await IncidentRepository(session).timelines(ids)
    return [serializers.incident(row, alerts[row.id], timelines[row.id]) for row in rows]


async def headlines(database: Database, ids: Collection[str]) -> list[dict[str, Any]]:
    """The JSON form of incidents without alerts and timelines, as live pages receive it.

    `step` is the root's: where a page shows the fault.
    """
    async with database.reading() as session:
        repository = IncidentRepository(session)
        rows = [row for incident_id in ids if (row := await repository.get(incident_id))]
        incidents = await complete(session, rows)
    return [
        incident.model_dump(mode="json", exclude={"alerts", "timeline"})
        | {"step": incident.alerts[0].step}
        for incident in incidents
    ]
