"""Stores what changes of alerts do to a run's incidents, in the transaction of those changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.incidents import messages
from server.alerts.incidents.grouping import AlertChange, Incident, Incidents, regroup
from server.alerts.incidents.reading import alerts_by_incident, complete
from server.alerts.incidents.repository import IncidentRepository
from server.alerts.incidents.rows import IncidentRow, incident_of
from server.alerts.incidents.silence_repository import SilenceRepository
from server.alerts.repository import AlertRepository
from server.outbox.outbox import Outbox


async def load(session: AsyncSession, run_id: str, step: int) -> dict[str, Incident]:
    """The incidents that changes from this step on may belong to, as they are now."""
    rows = await IncidentRepository(session).current(run_id, step)
    alerts = await alerts_by_incident(session, [row.id for row in rows])
    return {row.id: incident_of(row, alerts[row.id]) for row in rows}


async def record(
    session: AsyncSession,
    run_id: str,
    before: Incidents,
    changes: Sequence[AlertChange],
    *,
    outbox: Outbox,
    now: float,
) -> None:
    """Group the changes, store what follows, and put what webhooks are to be told of it.

    `before` was read ahead of the changes, which are stored already.
    """
    after, timeline = regroup(before.values(), changes)
    for incident in after.values():
        await _save(session, run_id, before.get(incident.id), incident, now)
    await IncidentRepository(session).add_changes(timeline, now)
    changed = {change.alert for change in changes}
    touched = [i.id for i in after.values() if any(e.alert in changed for e in i.evidence)]
    await put_due(session, outbox, touched, now)


async def _save(
    session: AsyncSession, run_id: str, before: Incident | None, after: Incident, now: float
) -> None:
    if before == after:
        return
    repository = IncidentRepository(session)
    if before is None:
        await repository.add(_new(run_id, after, now))
    else:
        values = _columns(after)
        if before.status != after.status:
            values["resolved_at"] = now if after.status == "resolved" else None
        await repository.change(after.id, **values)
    former = {e.alert for e in before.evidence} if before else set()
    for evidence in after.evidence:
        if evidence.alert not in former:
            await AlertRepository(session).change(evidence.alert, incident=after.id)


def _columns(incident: Incident) -> dict[str, object]:
    return {
        "status": incident.status,
        "severity": incident.severity,
        "root": incident.root.alert,
        "grown_step": incident.grown_step,
        "closed_step": incident.closed_step,
    }


def _new(run_id: str, incident: Incident, now: float) -> IncidentRow:
    return IncidentRow(
        id=incident.id,
        run_id=run_id,
        domain=incident.domain,
        status=incident.status,
        severity=incident.severity,
        notified="",
        root=incident.root.alert,
        grown_step=incident.grown_step,
        closed_step=incident.closed_step,
        note="",
        opened_at=now,
        resolved_at=now if incident.status == "resolved" else None,
    )


async def put_due(
    session: AsyncSession, outbox: Outbox, incident_ids: Collection[str], now: float
) -> None:
    """Put the messages that these incidents are worth now, and note that they are told."""
    if not incident_ids:
        return
    repository = IncidentRepository(session)
    silences = await SilenceRepository(session).in_force(now)
    alerts = await alerts_by_incident(session, list(incident_ids))
    for incident_id in incident_ids:
        row = await repository.get(incident_id)
        if row is None:
            continue
        loud = messages.loudness(alerts[incident_id], silences)
        kind = messages.due(row, loud)
        if kind is None:
            continue
        await repository.change(incident_id, notified="" if row.status == "resolved" else loud)
        (incident,) = await complete(session, [row])
        message = messages.message_of(
            incident, kind, row.project, tags=row.tags, public_url=outbox.public_url
        )
        await outbox.put(session, [message], now)
