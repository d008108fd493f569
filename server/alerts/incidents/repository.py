"""SQL over `incidents` and `incident_changes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, delete, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.incidents.grouping import JOIN_STEPS, Change
from server.alerts.incidents.rows import ChangeRow, IncidentRow, ListedIncident
from server.alerts.repository import AlertFilter
from server.database import fetch_all, fetch_first
from server.tables import alerts, incident_changes, incidents, runs


class IncidentRepository:
    """Incidents and their timelines."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, incident_id: str) -> ListedIncident | None:
        """The incident, or None."""
        query = _with_run().where(incidents.c.id == incident_id)
        return await fetch_first(self._session, query, ListedIncident)

    async def current(self, run_id: str, step: int) -> list[IncidentRow]:
        """The incidents that changes from this step on may still belong to.

        Information may outlast its incident: what becomes of it is told there.
        """
        unresolved = select(alerts.c.incident).where(
            alerts.c.run_id == run_id, alerts.c.status != "resolved"
        )
        query = select(incidents).where(
            incidents.c.run_id == run_id,
            or_(
                incidents.c.status != "resolved",
                incidents.c.closed_step >= step - JOIN_STEPS,
                incidents.c.id.in_(unresolved),
            ),
        )
        return await fetch_all(self._session, query.order_by(incidents.c.opened_at), IncidentRow)

    async def open_by_run(self) -> dict[str, list[str]]:
        """Ids of the open incidents of each run, in the order of the runs' ids."""
        query = select(incidents.c.run_id, incidents.c.id).where(incidents.c.status == "open")
        ids: dict[str, list[str]] = {}
        for run_id, incident_id in await self._session.execute(query.order_by(incidents.c.run_id)):
            ids.setdefault(run_id, []).append(incident_id)
        return ids

    async def add(self, incident: IncidentRow) -> None:
        """Store a new incident."""
        await self._session.execute(incidents.insert().values(**msgspec.structs.asdict(incident)))

    async def change(self, incident_id: str, **values: Any) -> None:
        """Set columns of one incident."""
        statement = update(incidents).where(incidents.c.id == incident_id).values(**values)
        await self._session.execute(statement)

    async def add_changes(self, changes: Sequence[Change], now: float) -> None:
        """Store what grouping says of incidents, in its order.

        Of an alert that worsens for days the newest line is kept: a timeline stays short.
        """
        for change in changes:
            if change.kind == "worsened":
                await self._forget_worsening(change)
            await self.add_change(
                change.incident, change.kind, now, step=change.step, alert=change.alert
            )

    async def _forget_worsening(self, change: Change) -> None:
        columns = incident_changes.c
        at = (columns.incident == change.incident, columns.alert == change.alert)
        await self._session.execute(
            delete(incident_changes).where(*at, columns.kind == change.kind)
        )

    async def add_change(
        self,
        incident_id: str,
        kind: str,
        now: float,
        *,
        step: int | None = None,
        alert: str | None = None,
        text: str = "",
    ) -> None:
        """Store one line of a timeline."""
        row = {"incident": incident_id, "at": now, "step": step, "kind": kind, "alert": alert}
        await self._session.execute(incident_changes.insert().values(**row, text=text))

    async def timelines(self, ids: Sequence[str]) -> dict[str, list[ChangeRow]]:
        """The timelines of these incidents, each oldest first."""
        query = select(incident_changes).where(incident_changes.c.incident.in_(ids))
        timelines: dict[str, list[ChangeRow]] = {incident_id: [] for incident_id in ids}
        query = query.order_by(incident_changes.c.number)
        for row in await fetch_all(self._session, query, ChangeRow):
            timelines[row.incident].append(row)
        return timelines

    async def page(
        self, filters: AlertFilter, *, before: tuple[float, str] | None, limit: int
    ) -> list[ListedIncident]:
        """Incidents newest first, past a cursor."""
        order = (incidents.c.opened_at.desc(), incidents.c.id.desc())
        query = _with_run().order_by(*order).limit(limit).where(*_conditions(filters))
        if before is not None:
            query = query.where(tuple_(incidents.c.opened_at, incidents.c.id) < tuple_(*before))
        return await fetch_all(self._session, query, ListedIncident)


def _with_run() -> Select[Any]:
    columns = (runs.c.name, runs.c.project, runs.c.tags)
    return select(incidents, *columns).join(runs, runs.c.id == incidents.c.run_id)


def _conditions(filters: AlertFilter) -> list[ColumnElement[bool]]:
    columns = {
        incidents.c.run_id: filters.run,
        incidents.c.status: filters.status,
        runs.c.project: filters.project,
    }
    return [column == value for column, value in columns.items() if value is not None]
