"""Read incidents with their alerts and timelines."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.incidents import serializers
from server.alerts.incidents.repository import IncidentRepository
from server.alerts.incidents.rows import ListedIncident
from server.alerts.incidents.schemas import Incident
from server.alerts.repository import AlertRepository
from server.alerts.rows import AlertRow


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
