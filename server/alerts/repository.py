"""SQL over `alerts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.rows import AlertColumns, AlertRow
from server.database import fetch_all, fetch_first
from server.tables import alerts, runs


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts a list asks for; None means any."""

    run: str | None = None
    status: str | None = None
    project: str | None = None


class AlertRepository:
    """Alerts, each with the name and project of its run."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, alert_id: str) -> AlertRow | None:
        """The alert, or None."""
        query = _with_run().where(alerts.c.id == alert_id)
        return await fetch_first(self._session, query, AlertRow)

    async def unresolved(self, run_id: str) -> list[AlertRow]:
        """Alerts of a run that are open or acknowledged: at most one a key."""
        query = _with_run().where(alerts.c.run_id == run_id, alerts.c.status != "resolved")
        return await fetch_all(self._session, query, AlertRow)

    async def unresolved_of_rules(self, rules: Sequence[str]) -> list[AlertRow]:
        """Alerts of these rules, in any run, that are open or acknowledged."""
        query = _with_run().where(alerts.c.rule.in_(rules), alerts.c.status != "resolved")
        return await fetch_all(self._session, query.order_by(alerts.c.run_id), AlertRow)

    async def of_incidents(self, ids: Sequence[str]) -> list[AlertRow]:
        """The alerts of these incidents, in the order in which they opened."""
        query = _with_run().where(alerts.c.incident.in_(ids))
        order = (alerts.c.opened_at, alerts.c.step, alerts.c.began, alerts.c.key)
        return await fetch_all(self._session, query.order_by(*order), AlertRow)

    async def add(self, alert: AlertColumns) -> None:
        """Store a new alert."""
        await self._session.execute(alerts.insert().values(**msgspec.structs.asdict(alert)))

    async def change(self, alert_id: str, **values: Any) -> None:
        """Set columns of one alert."""
        statement = update(alerts).where(alerts.c.id == alert_id).values(**values)
        await self._session.execute(statement)

    async def page(
        self, filters: AlertFilter, *, before: tuple[float, str] | None, limit: int
    ) -> list[AlertRow]:
        """Alerts newest first, past a cursor."""
        query = _with_run().order_by(alerts.c.opened_at.desc(), alerts.c.id.desc()).limit(limit)
        query = query.where(*_conditions(filters))
        if before is not None:
            query = query.where(tuple_(alerts.c.opened_at, alerts.c.id) < tuple_(*before))
        return await fetch_all(self._session, query, AlertRow)


def _with_run() -> Select[Any]:
    # Joined, since a list shows alerts of many runs, and a key may see one project alone.
    columns = (runs.c.name, runs.c.project, runs.c.tags)
    return select(alerts, *columns).join(runs, runs.c.id == alerts.c.run_id)


def _conditions(filters: AlertFilter) -> list[ColumnElement[bool]]:
    conditions = []
    if filters.run is not None:
        conditions.append(alerts.c.run_id == filters.run)
    if filters.status is not None:
        conditions.append(alerts.c.status == filters.status)
    if filters.project is not None:
        conditions.append(runs.c.project == filters.project)
    return conditions
