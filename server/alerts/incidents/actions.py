"""What people do to incidents: acknowledge, resolve, reopen, note."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.incidents.reading import alerts_by_incident, complete
from server.alerts.incidents.recording import put_due
from server.alerts.incidents.repository import IncidentRepository
from server.alerts.incidents.rows import ListedIncident
from server.alerts.incidents.schemas import Incident
from server.alerts.repository import AlertRepository
from server.alerts.rows import AlertRow
from server.errors import NotFound
from server.outbox.outbox import Outbox
from server.runs.repository import RunRepository


async def stored(session: AsyncSession, incident_id: str, project: str | None) -> ListedIncident:
    """The incident.

    Raises:
        NotFound: if there is no such incident in the project.
    """
    row = await IncidentRepository(session).get(incident_id)
    if row is None or project not in (None, row.project):
        raise NotFound(
            f"there is no incident {incident_id!r}",
            field="incident_id",
            fix="list incidents with GET /api/v1/incidents",
        )
    return row


async def locked(session: AsyncSession, incident_id: str, project: str | None) -> ListedIncident:
    """The incident, which nobody else changes before this transaction ends.

    Raises:
        NotFound: if there is no such incident in the project.
    """
    row = await stored(session, incident_id, project)
    # Diagnosis locks the run as well: read again what it may just have changed.
    await RunRepository(session).get(row.run_id, lock=True)
    return await stored(session, incident_id, project)


async def changed(session: AsyncSession, incident_id: str) -> Incident:
    """The incident as it is now."""
    row = await IncidentRepository(session).get(incident_id)
    if row is None:
        raise LookupError("an incident vanished inside its own transaction")
    (incident,) = await complete(session, [row])
    return incident


async def acknowledge(session: AsyncSession, row: ListedIncident, now: float) -> None:
    """Somebody looks at it: webhooks are told no more until it is resolved."""
    if row.status != "open":
        return
    repository = IncidentRepository(session)
    await repository.change(row.id, status="acknowledged")
    await repository.add_change(row.id, "acknowledged", now)
    for alert in await _alerts(session, row.id):
        if alert.status == "open":
            await AlertRepository(session).change(alert.id, status="acknowledged")


async def resolve(session: AsyncSession, row: ListedIncident, outbox: Outbox, now: float) -> None:
    """Somebody says that it is over. What still holds opens alerts, and an incident, of its own."""
    if row.status == "resolved":
        return
    repository = IncidentRepository(session)
    await repository.change(row.id, status="resolved", closed_step=None, resolved_at=now)
    await repository.add_change(row.id, "resolved", now)
    for alert in await _alerts(session, row.id):
        if alert.status != "resolved":
            await AlertRepository(session).change(alert.id, status="resolved", resolved_at=now)
    await put_due(session, outbox, [row.id], now)


async def reopen(session: AsyncSession, row: ListedIncident, now: float) -> None:
    """Undo `acknowledge` or `resolve`, with what they did to alerts."""
    if row.status == "open":
        return
    repository = IncidentRepository(session)
    unresolved = await AlertRepository(session).unresolved(row.run_id)
    await repository.change(row.id, status="open", closed_step=None, resolved_at=None)
    await repository.add_change(row.id, "reopened", now)
    for alert in _undone(row, await _alerts(session, row.id), unresolved):
        await AlertRepository(session).change(alert.id, status="open", resolved_at=None)


async def note(session: AsyncSession, row: ListedIncident, text: str, now: float) -> None:
    """Keep a note; the timeline keeps the former ones."""
    if row.note == text:
        return
    repository = IncidentRepository(session)
    await repository.change(row.id, note=text)
    await repository.add_change(row.id, "note", now, text=text)


async def _alerts(session: AsyncSession, incident_id: str) -> list[AlertRow]:
    return (await alerts_by_incident(session, [incident_id]))[incident_id]


def _undone(
    row: ListedIncident, alerts: Iterable[AlertRow], unresolved: Iterable[AlertRow]
) -> list[AlertRow]:
    """The alerts that were acknowledged, or resolved together with the incident by hand."""
    taken = {alert.key for alert in unresolved}  # of one key at most one alert is unresolved
    by_hand = row.status == "resolved" and row.closed_step is None
    return [
        alert
        for alert in alerts
        if alert.status == "acknowledged"
        or (by_hand and alert.resolved_at == row.resolved_at and alert.key not in taken)
    ]
